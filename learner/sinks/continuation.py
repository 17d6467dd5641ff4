"""Where a run's logs go on. A run that was killed has logged beyond its newest checkpoint; those steps are taken, and logged, again."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Continuation:
    """Filled in before the first row is written; by default nothing was logged before."""

    agent_steps: int = 0
    """Of the checkpoint that the run goes on from: what was logged beyond is not true of this run any more."""
    last_logged: int = -1
    """Newest step in the logs as they were found, for sinks that cannot take anything back."""
    keep_bytes: int | None = None
    """Length of ``metrics.jsonl`` up to the checkpoint."""


def find_continuation(metrics: Path, agent_steps: int) -> Continuation:
    """Reads a run's ``metrics.jsonl``, if there is one."""
    found = Continuation(agent_steps)
    if not metrics.is_file():
        return found
    keep, position = None, 0
    with metrics.open("rb") as file:
        for line in file:
            steps = _steps(line)
            if keep is None and (not line.endswith(b"\n") or (steps is not None and steps > agent_steps)):
                keep = position
            found.last_logged = max(found.last_logged, -1 if steps is None else steps)
            position += len(line)
    found.keep_bytes = position if keep is None else keep
    return found


def _steps(line: bytes) -> int | None:
    try:
        steps = json.loads(line)["agent_steps"]
    except (ValueError, TypeError, KeyError):
        return None
    return int(steps) if isinstance(steps, int | float) else None
