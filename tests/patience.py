"""How long tests wait: every limit in seconds is one of ``patience``, which is longer on a loaded machine.

``R2AC_TEST_PATIENCE=4 pytest ...`` makes all of them four times as long; without it they grow with the load, up to ``MOST`` times.
Limits only end what will never happen: that something is quick is shown by what came before what, and by clocks that tests turn.
"""

import os
from collections.abc import Callable
from time import monotonic, sleep  # themselves: tests turn the clocks of the module

FACTOR = "R2AC_TEST_PATIENCE"
MOST = 10.0


def factor() -> float:
    """By how much waiting takes longer than on a machine of one's own: processes that want a core, per core."""
    told = os.environ.get(FACTOR)
    if told is not None:
        return float(told)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST, max(1.0, max(os.getloadavg()) / cores))


def patience(seconds: float) -> float:
    """Seconds to wait now for what takes at most ``seconds`` on an idle machine."""
    return seconds * factor()


def wait_until(
    what: str,
    condition: Callable[[], object],
    seconds: float = 120,
    *,
    pause_s: float = 0.05,
    details: Callable[[], str] = str,
) -> None:
    """Looks until it is so. A load that comes while it waits makes it wait longer.

    Args:
        what: is waited for; with ``details`` (a log, say) the message if it does not come.
    """
    start = monotonic()
    while not condition():
        waited = monotonic() - start
        assert waited < patience(seconds), f"waited {waited:.0f} s for {what}: {details()}"
        sleep(pause_s)
