import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STANDINS = Path(__file__).parents[1] / "standins"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in for DeepMind Lab, here and in its engines; episodes of few steps."""
    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.setenv("FAKE_LAB", json.dumps({"steps": [5, 8]}))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "deepmind_lab"]:
        del sys.modules[name]
