"""What a run folder says about a run, finished or still going."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.data_yaml import read_yaml
from conf.knobs import ConfigError
from conf.load import NOT_LEARNING, config_hash
from conf.one_line import one_line
from conf.stored import read_verbatim

LOG = "metrics.jsonl"
CONFIG = "config.yaml"
SUMMARY = "summary.json"
QUIET_S = 120.0
"""A run whose log has not grown for so long, and no longer than ten of its intervals ago, is called stopped."""

SHOWN_DIFFERENCES = 3
"""Options in a label; runs that differ in more are told apart by the hash of their configuration."""

LABEL_LENGTH = 200
LARGEST = 1e100
"""Larger values overflow in what is computed from them."""
Number = float | int


class RunError(ValueError):
    """A folder that holds no run to report on. One line for the user."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run's log and configuration."""

    path: Path
    rows: list[dict[str, Number | None]]
    """In order of ``agent_steps``; what was logged after the checkpoint that the run later went on from is left out."""
    options: dict[str, Any]
    """The configuration, flat: ``learner.mode`` -> ``async``. Empty if the folder has none."""
    config_hash: str
    git_revision: str
    log_age_s: float

    @property
    def name(self) -> str:
        return one_line(self.options.get("name", self.path.name), LABEL_LENGTH)

    @property
    def seed(self) -> str:
        return one_line(self.options.get("seed", "?"), LABEL_LENGTH)

    @property
    def last(self) -> dict[str, Number | None]:
        return self.rows[-1]

    @property
    def state(self) -> str:
        """finished, running or stopped."""
        if (self.last.get("progress") or 0) >= 1:
            return "finished"
        interval = _number(self.options.get("logging.interval_s")) or 0.0
        return "running" if self.log_age_s < max(QUIET_S, 10 * interval) else "stopped"

    def series(self, metric: str) -> tuple[list[Number], list[Number]]:
        """Agent steps and values, without the rows in which the metric has none."""
        points = [(row["agent_steps"], row[metric]) for row in self.rows if row.get(metric) is not None]
        return [float(x or 0) for x, _ in points], [float(y or 0) for _, y in points]

    def newest(self, metric: str) -> Number | None:
        """The last value that was logged."""
        return next((row[metric] for row in reversed(self.rows) if row.get(metric) is not None), None)


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in nothing but seed, place and logging: one curve with a band."""

    label: str
    runs: list[Run]


def read_run(path: Path) -> Run:
    """Reads a run folder; a last line that is still being written is left for the next report.

    Raises:
        RunError: if there is no run, or nothing logged yet.
    """
    log = path / LOG
    if not log.is_file():
        raise RunError(_no_run(path))
    rows = _read_rows(log)
    if not rows:
        raise RunError(f"{path} has not logged anything yet: wait for the first row of {LOG} (logging.interval_s)")
    text = (path / CONFIG).read_text(encoding="utf-8", errors="replace") if (path / CONFIG).is_file() else ""
    summary = _read_summary(path / SUMMARY)
    return Run(
        path=path,
        rows=rows,
        options=_flat(_parse(text, path / CONFIG)),
        config_hash=one_line(summary.get("config_hash") or _hash(text), LABEL_LENGTH),
        git_revision=one_line(summary.get("git_revision") or "?", LABEL_LENGTH),
        log_age_s=max(0.0, time.time() - log.stat().st_mtime),
    )


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs of one name and configuration together, in the order in which they were given."""
    members: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        members.setdefault((run.name, run.config_hash), []).append(run)
    groups = [Group(name, sorted(found, key=lambda run: str(run.seed))) for (name, _), found in members.items()]
    return [_told_apart(group, [other for other in groups if other.label == group.label]) for group in groups]


def _told_apart(group: Group, namesakes: Sequence[Group]) -> Group:
    """With what distinguishes it from groups of the same name in its label."""
    if len(namesakes) == 1:
        return group
    index = next(number for number, other in enumerate(namesakes) if other is group)
    differences = [
        f"{option.removesuffix('.name')}={values[index]}"
        for option, values in differing_options(namesakes)
        if option.split(".")[0] not in NOT_LEARNING
    ]
    shown = differences if 0 < len(differences) <= SHOWN_DIFFERENCES else [group.runs[0].config_hash]
    return Group(f"{group.label} ({', '.join(shown)})", group.runs)


def differing_options(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Options that are not the same in all runs, each with its values per group; several seeds are listed."""
    options = sorted({option for group in groups for run in group.runs for option in run.options})
    rows = []
    for option in options:
        cells = [list(dict.fromkeys(_shown(run.options.get(option, "-")) for run in group.runs)) for group in groups]
        if len({value for cell in cells for value in cell}) > 1:
            rows.append((option, [", ".join(cell) for cell in cells]))
    return rows


def _read_rows(log: Path) -> list[dict[str, Number | None]]:
    rows: list[dict[str, Number | None]] = []
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = {name: _number(value) for name, value in json.loads(line).items()}
            steps = row["agent_steps"]
            if steps is None or not 0 <= steps < 2**63:
                raise ValueError("agent_steps")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if number >= len(lines):  # nothing ended it: a writer is not done with it
                break
            raise RunError(f"{log} is not a log of rtrl-train: line {number} is not a row with agent_steps") from None
        while rows and (rows[-1]["agent_steps"] or 0) >= steps:
            rows.pop()
        rows.append(row)
    return rows


def _no_run(path: Path) -> str:
    if not path.exists():
        return f"no run at {path}: there is no such folder"
    inside = sorted(str(log.parent) for log in path.glob(f"*/{LOG}"))
    hint = f"; runs inside it: {' '.join(inside[:5])}" if inside else ""
    return f"no run at {path}: expected a folder with {LOG}, as rtrl-train writes{hint}"


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the first row comes before the first summary
        return {}
    return summary if isinstance(summary, dict) else {}


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(text, "the configuration") or {}
    except ConfigError as error:
        raise RunError(f"{path} is not YAML, restore it or delete it, then the report does without: {error}") from None
    return values if isinstance(values, dict) else {}


def _hash(text: str) -> str:
    try:
        return config_hash(read_verbatim(text))
    except ConfigError:  # of another version: told apart by name alone
        return "unknown"


def _flat(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat


def _shown(value: Any) -> str:
    return "null" if value is None else one_line(value, LABEL_LENGTH)


def _number(value: Any) -> Number | None:
    """What can be drawn; anything else in a file counts as no value."""
    return value if type(value) in (int, float) and abs(value) < LARGEST else None
