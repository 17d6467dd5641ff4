"""This program beside others that a user may take instead: ``python -m benchmarks peers``, an hour; see ``compare.py``."""

from benchmarks.peers.compare import run

__all__ = ["run"]
