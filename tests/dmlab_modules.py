"""Which ``deepmind_lab`` module a test runs with: the stand-in everywhere, and the real one where it is installed."""

import importlib.util

import pytest

REAL = pytest.param(
    "real",
    marks=[
        pytest.mark.dmlab,
        pytest.mark.slow,
        pytest.mark.skipif(importlib.util.find_spec("deepmind_lab") is None, reason="no deepmind_lab module"),
    ],
)
both_modules = pytest.mark.parametrize("module", ["stand-in", REAL], indirect=True)
