"""When something of a run is due."""

import time
from collections.abc import Callable


class Clock:
    """Says when something is due: every so many seconds, or every so many agent steps."""

    def __init__(self, interval_s: float, interval_steps: int | None, agent_steps: int) -> None:
        self._interval_s, self._interval_steps = interval_s, interval_steps
        self.restart(agent_steps)

    def restart(self, agent_steps: int) -> None:
        self._done_s = time.monotonic()
        self._failed = False
        self._postpone(agent_steps)

    def fail(self, agent_steps: int, say: Callable[[], None]) -> None:
        """It was due and could not be done: it is due again after another interval. ``say`` is called for the first of several failures."""
        if not self._failed:
            say()
        self._failed = True
        self._postpone(agent_steps)

    def _postpone(self, agent_steps: int) -> None:
        self._last_s, self._last_steps = time.monotonic(), agent_steps

    @property
    def age_s(self) -> float:
        """Since it was last done."""
        return time.monotonic() - self._done_s

    def due(self, agent_steps: int) -> bool:
        if self._interval_steps is not None:
            return agent_steps - self._last_steps >= self._interval_steps
        return time.monotonic() - self._last_s >= self._interval_s

    def is_late(self) -> bool:
        """Whether it has been due for two more intervals. A row waits so long for a contribution: between two of them, a run that takes
        long unrolls would seem to stand still, and to be twice as fast as it is after that."""
        return time.monotonic() - self._last_s >= 3 * self._interval_s
