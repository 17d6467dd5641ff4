"""What every test shares: checked shapes, one core for torch, no ignored signal, a stand-in for DeepMind Lab, and a limit that grows with
the machine's load."""

import json
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from jaxtyping import install_import_hook

install_import_hook(["rtrl_core", "actors", "learner", "r2ac"], "beartype.beartype")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from patience import patience  # noqa: E402

TRAIN_FOR_LONG = {
    "test_copy.py",
    "test_impala.py",
    "test_impala_lag.py",
    "test_q_learner.py",
    "test_measured_fidelity.py",
    "test_own_environments.py",
    "test_refusals.py",
    "test_resume.py",
    "test_runaway_streams.py",
}
"""Files whose programs call what others check already, so often that checking it is two thirds of their time."""

# Whoever started the tests may ignore signals (nohup, a shell's background): programs that they start would ignore them too.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, in turns for two workers, each of which begins with a half: what is left for the end is short."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path.as_posix(), []).append(item)
    slow = [tests for tests in files.values() if any(test.get_closest_marker("slow") for test in tests)]
    quick = [test for tests in files.values() if tests not in slow for test in tests]
    halves = [[test for tests in slow[number::2] for test in tests] for number in (0, 1)]
    room = max(0, (len(items) + 1) // 2 - len(halves[0]))
    items[:] = [*halves[0], *quick[:room], *halves[1], *quick[room:]]


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _shapes_are_checked(request: pytest.FixtureRequest) -> None:
    jaxtyping.config.update("jaxtyping_disable", request.path.name in TRAIN_FOR_LONG)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in for DeepMind Lab, here and in its engines; episodes of few steps."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "standins"))
    monkeypatch.setenv("FAKE_LAB", json.dumps({"steps": [5, 8]}))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "deepmind_lab"]:
        del sys.modules[name]


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer(settings: Any) -> Generator[None, Any, Any]:
    """When a test's limit is over it is looked at again: by then the machine may be under load."""
    answer = yield
    start, end_the_test = monotonic(), signal.getsignal(signal.SIGALRM)

    def look_again(number: int, frame: Any) -> None:
        left_s = start + patience(settings.timeout) - monotonic()
        if left_s > 0:
            signal.setitimer(signal.ITIMER_REAL, left_s)
        elif callable(end_the_test):
            end_the_test(number, frame)

    if callable(end_the_test):  # it watches by signal, not from a thread
        signal.signal(signal.SIGALRM, look_again)
    return answer
