"""Signals that end a run: it saves, writes its last row and ends with status 0, whoever sent them and to whom."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Ctrl-C; ``kill``, ``timeout``, containers; a terminal that closes; what batch systems send before the time is over."""
SAME_REQUEST_S = 1.0
"""Signals come in pairs: ``timeout`` sends one to the process and one to its group, a shell passes on the terminal's."""


class StoppedBeforeTraining(BaseException):
    """Raised out of a start that a signal ends: nothing is there yet that could be saved."""


class StopSignals:
    """Catches the signals from when it is made; one that is ignored already, as ``nohup`` arranges it, stays ignored.

    Before ``begin`` a signal raises ``StoppedBeforeTraining``. After it, ``requested`` is what the training loop asks; only Ctrl-C
    pressed again ends at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._requested_s = 0.0
        self._begun = False
        self._owner = os.getpid()
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._request)

    def begin(self) -> None:
        """From now on there is something to save."""
        self._begun = True

    @property
    def ended_the_start(self) -> bool:
        """Whether a signal came before ``begin``: what was raised since then, by whatever it interrupted, is no failure."""
        return self.requested and not self._begun

    def _request(self, number: int, frame: object) -> None:
        del frame
        if os.getpid() != self._owner:
            return
        if self.requested:
            if number == signal.SIGINT and time.monotonic() - self._requested_s > SAME_REQUEST_S:
                raise KeyboardInterrupt
            return
        self.requested = True
        self._requested_s = time.monotonic()
        name = signal.Signals(number).name
        if not self._begun:
            _say(f"{name}: stopped before training began")
            raise StoppedBeforeTraining
        _say(f"{name}: finishing the unrolls under way and saving; Ctrl-C once more ends at once")


@contextmanager
def passed_on(receive: Callable[[int], None]) -> Iterator[None]:
    """Inside, ``receive`` is given every ending signal; this process goes on."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: receive(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """Past Python's buffers, which a signal may find in the middle of a write, and past a terminal that is gone."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
