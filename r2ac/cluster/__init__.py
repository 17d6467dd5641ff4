"""The Ray of a run: one that was there, or one of its own."""
