"""The table of simulated fleets in docs/results."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.report import replace_table
from benchmarks.simulation.large import Costs
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
    rows = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
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
        rows.append(f"| {' | '.join(cells)} |")
    return rows


MANY, LINK = 10_000, 1.25e9
"""Actors of the fleet on paper; bytes per second of a link of ten gigabits."""


def on_paper(figures: Sequence[Figures], costs: Costs) -> list[str]:
    """Lines of Markdown: what more actors, and a network of a real size, would come to, from the largest fleet that was added up."""
    largest = max((one for one in figures if one.added_up), key=lambda one: one.actors)
    of_driver, of_learner = (largest.cores[part] / largest.contributions for part in (OURS, LEARNER))
    rows = ["| actors | driver, cores | learner, cores | learner, adds/s | MB/s at the learner |", "|---" * 5 + "|"]
    for actors in (largest.actors, 3 * largest.actors, MANY):
        contributions = actors * largest.asked / largest.actors
        adds = contributions * largest.messages / largest.contributions
        learner = contributions * of_learner + adds * costs.add_s + largest.updates * costs.update_s
        cells = (
            f"{actors:,}",
            f"{contributions * of_driver:.2f}",
            f"{learner:.2f}",
            f"{adds:.0f}",
            f"{adds * 4 * costs.parameters / 1e6:,.0f} of {LINK / 1e6:,.0f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def lines(path: Path) -> list[str]:
    """Of both tables, from a file of results."""
    figures, costs = read(path)
    assert costs is not None, "python -m benchmarks.simulation costs"
    return [*table(figures), "", *on_paper(figures, costs)]


def read(path: Path) -> tuple[list[Figures], Costs | None]:
    if not path.is_file():
        return [], None
    held = json.loads(path.read_text())
    costs = held["costs"]
    return [Figures(**one) for one in held["fleets"]], None if costs is None else Costs(**costs)


def keep(found: Figures | Costs, path: Path) -> None:
    """In the place of what was measured of such a fleet, or of the costs, before."""
    figures, costs = read(path)
    if isinstance(found, Costs):
        costs = found
    else:
        figures = [one for one in figures if (one.actors, one.added_up) != (found.actors, found.added_up)] + [found]
    held = {"fleets": [asdict(one) for one in figures], "costs": None if costs is None else asdict(costs)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held, indent=1) + "\n")


def publish(results: Path) -> None:
    """Raises ``ValueError`` if the page has no place for the table."""
    replace_table(results / "README.md", COMMAND, lines(results / "data" / DATA))
