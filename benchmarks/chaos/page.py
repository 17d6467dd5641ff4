"""The table of campaigns in docs/results."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.chaos.audit import FORGOTTEN_S, KEPT, LOST, REPEATED_S, SUMS, UNHEARD
from benchmarks.chaos.campaign import Report
from benchmarks.chaos.faults import FAULTS
from benchmarks.report import replace_table

COMMAND = "python -m benchmarks.chaos publish"
DATA = "chaos.json"


def table(reports: Sequence[Report]) -> list[str]:
    """Lines of Markdown: of each campaign how many faults of each kind, and what came of them."""
    heads = " | ".join(f"{report.setting}, {report.minutes:g} min" for report in reports)
    lines = [f"| fault | {heads} |", "|---" * (1 + len(reports)) + "|"]
    for fault in FAULTS:
        lines.append(_line(fault.name, [_of(report, fault.name) for report in reports]))
    lines.append(_line("**faults**", [f"**{report.total:,}**" for report in reports]))
    lines += ["", f"| what came of them | {heads} |", "|---" * (1 + len(reports)) + "|"]
    for name in (
        "shipped",
        SUMS,
        "added",
        KEPT,
        "dropped",
        "refused",
        LOST,
        UNHEARD,
        REPEATED_S,
        FORGOTTEN_S,
        "actor_restarts",
        "learner_restarts",
        "checks",
    ):
        lines.append(_line(name.replace("_", " "), [f"{report.counts.get(name, 0):,}" for report in reports]))
    lines.append(
        _line(
            "steps with a fault a minute, of those without",
            [_ratio(report.throughput) for report in reports],
        )
    )
    lines.append(
        _line("the driver's memory, of that half a storm before", [_ratio(report.memory) for report in reports])
    )
    lines.append(_line("**what did not hold**", [f"**{len(report.wrong)}**" for report in reports]))
    return lines


def _of(report: Report, name: str) -> str:
    return "not here" if name in report.not_here else f"{report.faults.get(name, 0)}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(what: str, cells: Sequence[str]) -> str:
    return f"| {what} | {' | '.join(cells)} |"


def read_reports(path: Path) -> list[Report]:
    return [Report(**report) for report in json.loads(path.read_text())] if path.is_file() else []


def publish(reports: Sequence[Report], results: Path) -> None:
    """Those of a setting take the place of its last ones. Raises ``ValueError`` if the page has no place for the table."""
    path = results / "data" / DATA
    kept = {report.setting: report for report in [*read_reports(path), *reports]}
    path.write_text(json.dumps([asdict(report) for report in kept.values()], indent=1) + "\n")
    replace_table(results / "README.md", COMMAND, table(list(kept.values())))
