"""Whatever a sink does, training goes on and says so once, in one line."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import patience

from conf.load import load_train
from r2ac.monitoring.sinks import Sinks, all_sinks, isolated
from r2ac.monitoring.sinks.isolated import IsolatedSink
from r2ac.monitoring.sinks.sink import Row
from r2ac.training.loop import RunHooks, train

TOY = [
    *("experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=1", "actors.num_envs=4"),
    *("actors.unroll=3", "network.num_units=8", "network.encoder=mlp", "network.features=6", "logging=quiet"),
    *("logging.interval_steps=12", "total_steps=120"),
]


class Collecting:
    """A sink that works."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, row: Row) -> None:
        self.rows.append(row)

    def close(self) -> None:
        pass


class Failing(Collecting):
    """Raises where it is told to."""

    def __init__(self, place: str, error: BaseException) -> None:
        super().__init__()
        self._place, self._error = place, error
        if place == "open":
            raise error

    def write(self, row: Row) -> None:
        super().write(row)
        if self._place == "write":
            raise self._error

    def close(self) -> None:
        if self._place == "close":
            raise self._error


class Blocking(Collecting):
    """Does not return from one of its methods until it is released."""

    def __init__(self, place: str, released: threading.Event) -> None:
        super().__init__()
        self._place, self._released = place, released
        self._wait("open")

    def _wait(self, place: str) -> None:
        if self._place == place:
            assert self._released.wait(patience(60))

    def write(self, row: Row) -> None:
        self._wait("write")
        super().write(row)

    def close(self) -> None:
        self._wait("close")


class Unwaited(IsolatedSink[Collecting]):
    """Is not waited for: whatever blocks in it does so for as long as the test wants."""

    def flush(self, deadline: float) -> None:
        super().flush(time.monotonic())

    def join(self, deadline: float) -> None:
        super().join(time.monotonic())


@pytest.fixture(autouse=True)
def _time_for_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((isolated, "PATIENCE_S"), (all_sinks, "FLUSH_S"), (all_sinks, "CLOSE_S")):
        monkeypatch.setattr(module, name, patience(60))


def trained(
    run_dir: Path,
    open_sink: Callable[[], Collecting],
    kind: type[IsolatedSink[Collecting]] = IsolatedSink,
    capacity: int = 1000,
) -> tuple[list[str], list[Row]]:
    """What a run with this sink said about it, and the rows that a healthy one beside it got."""
    said: list[str] = []
    healthy = Collecting()
    sinks = Sinks(
        [
            kind("the bad one", open_sink, said.append, capacity=capacity),
            IsolatedSink("the good one", lambda: healthy, said.append),
        ],
        said.append,
    )
    with sinks:
        row = train(load_train(TOY), run_dir, sinks, RunHooks())
    assert (row["agent_steps"] or 0) >= 120
    return [line for line in said if "one" in line], healthy.rows


@pytest.mark.seconds
@pytest.mark.parametrize("place", ["open", "write", "close"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ConnectionResetError("Connection lost"), "ConnectionResetError: Connection lost"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_sink_that_raises_costs_its_rows_and_is_named_once(
    tmp_path: Path, place: str, error: BaseException, words: str
):
    said, rows = trained(tmp_path, lambda: Failing(place, error))
    assert said == [f"the bad one failed ({words}): training goes on, rows are missing there"]
    assert len(rows) >= 10


@pytest.mark.seconds
@pytest.mark.parametrize("place", ["open", "write"])
def test_a_sink_that_blocks_holds_up_neither_training_nor_the_others(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(isolated, "PATIENCE_S", 0.01)
    released = threading.Event()
    said, rows = trained(tmp_path, lambda: Blocking(place, released), Unwaited, capacity=3)
    released.set()
    assert said == ["the bad one takes no more rows: training goes on, rows are missing there"]
    assert len(rows) >= 10


@pytest.mark.seconds
def test_a_sink_that_does_not_close_is_left(tmp_path: Path):
    released = threading.Event()
    said, rows = trained(tmp_path, lambda: Blocking("close", released), Unwaited)
    released.set()
    assert said == ["the bad one did not close in time, rows are missing there"]
    assert len(rows) >= 10


def test_a_sink_that_was_slow_gets_its_rows_again_when_it_is_back():
    released, said = threading.Event(), []
    sink = Blocking("write", released)
    slow = IsolatedSink("slow", lambda: sink, said.append, capacity=2)
    row: Row = {"agent_steps": 1}
    for _ in range(2):
        slow.do(lambda opened: opened.write(row))
    released.set()
    slow.do(lambda opened: opened.write(row))  # waits for room, and finds it
    slow.end()
    slow.join(time.monotonic() + patience(60))
    assert len(sink.rows) == 3
    assert slow.works
    assert not said


def test_rows_arrive_in_order_and_before_the_close():
    sink = Collecting()
    working = IsolatedSink("it", lambda: sink, lambda text: None)
    for steps in range(100):
        working.do(lambda opened, steps=steps: opened.write({"agent_steps": steps}))
    working.flush(time.monotonic() + patience(60))
    assert [row["agent_steps"] for row in sink.rows] == list(range(100))
    working.end()
    working.join(time.monotonic() + patience(60))
