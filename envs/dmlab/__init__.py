"""DeepMind Lab: single levels and DMLab-30. The engine's module comes from the user; see docs/dmlab.md.

Every engine process imports this package: what it does not need is in ``suite.py``.
"""
