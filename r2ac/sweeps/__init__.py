"""Sweeps: many runs that differ in what was given several values."""
