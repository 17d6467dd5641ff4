"""The table of simulated fleets in docs/results."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.report import replace_table
from benchmarks.simulation.scenario import AGGREGATORS, HOSTS, LEARNER, OURS, RAY, Figures

COMMAND = "python -m benchmarks.simulation publish"
DATA = "simulation.json"
HEADS = (
    *("actors", "nodes", "asked/s", "contributions/s", "messages to the learner/s", "updates/s", "MB/s at the learner"),
    *("updates late", "driver, cores", "learner, cores", "aggregators, cores", "actors' hosts and Ray, cores"),
    *("driver's memory, MB/min", "lost or twice"),
)


def table(figures: Sequence[Figures]) -> list[str]:
    """Lines of Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for one in sorted(figures, key=lambda one: (one.actors, one.added_up)):
        cells = [
            f"{one.actors:,}",
            f"{one.nodes}, added up" if one.added_up else "each by itself",
            f"{one.asked:,.0f}",
            f"{one.contributions:,.0f}",
            f"{one.messages:,.0f}",
            f"{one.updates:.1f}",
            f"{one.bytes / 1e6:.1f}",
            f"{one.lag:.1f}",
            *(f"{one.cores[part]:.2f}" for part in (OURS, LEARNER, AGGREGATORS)),
            f"{one.cores[HOSTS] + one.cores[RAY]:.2f}",
            f"{one.growth:+.1f}",
            f"{one.twice}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def read(path: Path) -> list[Figures]:
    return [Figures(**one) for one in json.loads(path.read_text())] if path.is_file() else []


def keep(figures: Figures, path: Path) -> None:
    """In the place of what was measured of such a fleet before."""
    others = [one for one in read(path) if (one.actors, one.added_up) != (figures.actors, figures.added_up)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in [*others, figures]], indent=1) + "\n")


def publish(results: Path) -> None:
    """Raises ``ValueError`` if the page has no place for the table."""
    replace_table(results / "README.md", COMMAND, table(read(results / "data" / DATA)))
