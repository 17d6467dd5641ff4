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


LARGE, MANY, LINK = 1_651_424, 10_000, 1.25e9
"""Parameters of the Nature network with 256 units; actors of the fleet on paper; bytes per second of a link of ten gigabits."""
ADD_S, UPDATE_S = 0.0019, 0.0077
"""Of a sum of so many parameters, and of an update with the copy that is sent: one thread of the machine that the table is of."""


def on_paper(figures: Sequence[Figures]) -> list[str]:
    """Lines of Markdown: what more actors, and a network of another size, would come to, from the largest fleet that was added up."""
    largest = max((one for one in figures if one.added_up), key=lambda one: one.actors)
    of_driver, of_learner = (largest.cores[part] / largest.contributions for part in (OURS, LEARNER))
    lines = ["| actors | driver, cores | learner, cores | learner, adds/s | MB/s at the learner |", "|---" * 5 + "|"]
    for actors in (largest.actors, 3 * largest.actors, MANY):
        contributions = actors * largest.asked / largest.actors
        adds = contributions * largest.messages / largest.contributions
        learner = contributions * of_learner + adds * ADD_S + largest.updates * UPDATE_S
        cells = (
            f"{actors:,}",
            f"{contributions * of_driver:.2f}",
            f"{learner:.2f}",
            f"{adds:.0f}",
            f"{adds * 4 * LARGE / 1e6:,.0f} of {LINK / 1e6:,.0f}",
        )
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
    figures = read(results / "data" / DATA)
    replace_table(results / "README.md", COMMAND, [*table(figures), "", *on_paper(figures)])
