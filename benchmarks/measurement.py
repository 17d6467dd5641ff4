"""How things are measured here: side by side, in turns, medians of several rounds, and every result with its target."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


class NotMeasured(RuntimeError):
    """What was asked for could not be measured, for a reason that is the user's to mend. One line."""


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    """``GROUP/what``."""
    value: float
    unit: str
    target: str
    """In words; empty where the number only informs."""
    met: bool | None
    """``None`` without a target."""
    setting: str


def at_least(name: str, value: float, limit: float, unit: str, setting: str) -> Result:
    return Result(name, value, unit, f"at least {limit:g}", value >= limit, setting)


def at_most(name: str, value: float, limit: float, unit: str, setting: str) -> Result:
    return Result(name, value, unit, f"at most {limit:g}", value <= limit, setting)


def informs(name: str, value: float, unit: str, setting: str) -> Result:
    return Result(name, value, unit, "", None, setting)


def in_turns(
    candidates: dict[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each candidate. They take turns, so that whatever else the machine does meets all of them alike.

    Args:
        clock: ``time.process_time`` leaves out the time in which others had the processor.
    """
    for _ in range(warmup):
        for run in candidates.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            started = clock()
            run()
            times[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in times.items()}
