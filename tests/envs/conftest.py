"""DeepMind Lab for tests: the stand-in in the module's place, and environments that are closed afterwards."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opened_dmlab import STREAMS, Opened

from conf.env_schema import DMLabConfig
from envs.dmlab.environment import DMLabEnv

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


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[str], None]:
    """Makes the named fault happen, once, to whichever engine comes to it first."""
    (tmp_path / "faults").mkdir()
    return lambda name: (tmp_path / "faults" / name).touch()


@pytest.fixture
def open_env(standin: Callable[..., None], opened: Opened, tmp_path: Path) -> Callable[..., DMLabEnv]:
    """Opens an environment of the stand-in, which behaves as ``FAKE_LAB`` is told."""

    def build(config: DMLabConfig, streams: int = STREAMS, **behaviour: Any) -> DMLabEnv:
        folder = tmp_path / "faults"
        standin(**behaviour | ({"faults": str(folder)} if folder.exists() else {}))
        return opened(config, streams=streams)

    return build
