"""Where a run's logs go on. A run that was killed has logged beyond its newest checkpoint; those steps are taken, and logged, again."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Continuation:
    """Filled in before the first row is written; by default nothing was logged before."""

    first_untrue: int = 1
    """From this agent step on, what was logged is not true of this run any more."""
    last_logged: int = -1
    """Newest step in the logs as they were found, for sinks that cannot take anything back."""
    keep_bytes: int | None = None
    """Length of ``metrics.jsonl`` up to the checkpoint."""


def find_continuation(metrics: Path, agent_steps: int, wall_time_s: float) -> Continuation:
    """Reads a run's ``metrics.jsonl``, if there is one, for a run that goes on from a checkpoint of these steps and this age.

    A row of the same steps may be younger than the checkpoint; it is not kept either.
    """
    found = Continuation(agent_steps + 1)
    if not metrics.is_file():
        return found
    position = 0
    with metrics.open("rb") as file:
        for line in file:
            steps, seconds = _place(line)
            beyond = steps > agent_steps or (steps == agent_steps and seconds > wall_time_s)
            if found.keep_bytes is None and (beyond or not line.endswith(b"\n")):
                found.keep_bytes = position
                found.first_untrue = min(found.first_untrue, steps) if beyond else found.first_untrue
            found.last_logged = max(found.last_logged, steps)
            position += len(line)
    return found


def _place(line: bytes) -> tuple[int, float]:
    """Agent steps and age of a row; ``(-1, 0.0)`` for a line that is none."""
    try:
        row = json.loads(line)
        return int(row["agent_steps"]), float(row.get("wall_time_s") or 0.0)
    except (ValueError, TypeError, KeyError, AttributeError):
        return -1, 0.0
