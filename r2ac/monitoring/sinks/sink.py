"""What a sink is."""

import math
from typing import Protocol, runtime_checkable

from r2ac.monitoring.metrics import Row


@runtime_checkable
class Sink(Protocol):
    """Takes rows. It lives in a thread of its own (``isolated.py``): it may block and raise as it likes."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


def numbers(row: Row) -> dict[str, float]:
    """What can be drawn."""
    return {name: float(value) for name, value in row.items() if value is not None and math.isfinite(value)}
