"""DeepMind Lab for tests: the stand-in in the module's place, and environments that are closed afterwards."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opened_dmlab import Opened

STANDINS = Path(__file__).parents[1] / "standins"


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts the stand-in in the module's place, here and in the processes that engines get; takes what ``FAKE_LAB`` may say."""
    monkeypatch.syspath_prepend(str(STANDINS))

    def behave(**behaviour: Any) -> None:
        monkeypatch.setenv("FAKE_LAB", json.dumps(behaviour))

    behave()
    yield behave
    forget_module()


def forget_module() -> None:
    """The next import of ``deepmind_lab`` finds what is on the path then."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "deepmind_lab"]:
        del sys.modules[name]


@pytest.fixture
def module(request: pytest.FixtureRequest) -> str:
    """Which module engines get: the stand-in, or the real one."""
    if request.param == "stand-in":
        request.getfixturevalue("standin")
    return request.param


@pytest.fixture
def opened() -> Iterator[Opened]:
    opened = Opened()
    yield opened
    for env in opened.envs:
        env.close()
