"""A sink in a thread of its own: whatever it does, raise, block or exit, costs its rows and not the run."""

import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

CAPACITY = 1000
"""Actions that may wait for a sink."""
PATIENCE_S = 1.0
"""How long training waits, once, for a sink whose queue is full: it may be slow rather than stuck."""


class Closable(Protocol):
    def close(self) -> None: ...


S = TypeVar("S", bound=Closable)


class IsolatedSink(Generic[S]):
    """
    Args:
        name: for the user.
        open_sink: called in the thread, before the first action.
        complain: told in one line, once, that the sink does not work.
        loss: what that costs, for the line.
    """

    def __init__(
        self,
        name: str,
        open_sink: Callable[[], S],
        complain: Callable[[str], None],
        *,
        loss: str = "rows are missing there",
        capacity: int = CAPACITY,
    ) -> None:
        self.works = True
        """Until it has failed, or did not take or end what it should: then what its library does when the process ends may fail too."""
        self._name, self._open, self._complain, self._loss = name, open_sink, complain, loss
        self._actions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(capacity)
        self._stuck = False
        self._flushed = threading.Event()
        """Not set while a flush is under way that was not waited for to its end."""
        self._flushed.set()
        self._sink: S | None = None
        self._lost = False
        """Could not be opened: what is meant for it goes nowhere."""
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def do(self, action: Callable[[S], None]) -> None:
        """Queues what shall be done with the sink; drops it if the sink is stuck."""
        if not self._room.acquire(timeout=0.0 if self._stuck else PATIENCE_S):
            self._stuck = True
            self._say("takes no more rows: training goes on")
            return
        self._stuck = False
        self._actions.put(lambda: self._attempt_queued(action))

    def flush(self, deadline: float) -> None:
        """Waits until everything queued is done, but not beyond ``deadline`` (``time.monotonic``), nor for a sink that is stuck."""
        if self._flushed.is_set():
            self._flushed.clear()
            self._actions.put(self._flushed.set)
            self._flushed.wait(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """What is queued is still done, then the sink is closed. Does not wait for that: see ``join``."""
        self._actions.put(None)

    def join(self, deadline: float) -> None:
        """Waits until it is closed, but not beyond ``deadline`` (``time.monotonic``)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._say("did not close in time")

    def _run(self) -> None:
        while (action := self._actions.get()) is not None:
            action()
        if self._sink is not None:
            self._attempt(lambda sink: sink.close())

    def _attempt_queued(self, action: Callable[[S], None]) -> None:
        self._attempt(action)
        self._room.release()

    def _attempt(self, action: Callable[[S], None]) -> None:
        if self._lost:
            return
        try:
            if self._sink is None:
                self._lost = True
                self._sink = self._open()
                self._lost = False
            action(self._sink)
        except BaseException as error:  # also SystemExit: a library's opinion that all is lost is not ours
            self._say(f"failed ({reason(error)}): training goes on")

    def _say(self, what: str) -> None:
        if self.works:
            self.works = False
            self._complain(f"{self._name} {what}, {self._loss}")


def reason(error: BaseException) -> str:
    """One line for what a library raised."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def to_error_stream(text: str) -> None:
    """The last resort of a terminal that does not work."""
    with suppress(Exception):
        print(text, file=sys.stderr, flush=True)
