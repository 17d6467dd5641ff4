"""A report on runs: read their logs, draw them, write one page."""
