"""Runs of this program and its peers: the file, the table and the picture."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import replace_table
from r2ac.persistence.writing import replace_file

WARM_UP_S = 30.0
"""After which steps per second count."""
MINUTES = (3, 6, 10)
GOAL = 10.0


@dataclass(frozen=True, slots=True)
class PeerRun:
    """Samples from the first step on: seconds, CPU seconds of all processes, agent steps, mean raw return of the last 100 games."""

    name: str
    seed: int
    cores: int
    wall: list[float]
    cpu: list[float]
    steps: list[int]
    mean_return: list[float | None]

    def at(self, times: list[float], when: float) -> float | None:
        """The return when one of the clocks stood there; ``None`` where the run was over, or no game."""
        index = next((index for index, time in enumerate(times) if time >= when), None)
        return None if index is None else self.mean_return[index]

    def reached(self, times: list[float], goal: float) -> float | None:
        """When, by one of the clocks."""
        pairs = zip(times, self.mean_return, strict=True)
        return next((time for time, mean in pairs if mean is not None and mean >= goal), None)

    def rate(self, times: list[float]) -> float:
        """Steps per second of one of the clocks, warmed up."""
        start = next((index for index, wall in enumerate(self.wall) if wall >= WARM_UP_S), 0)
        return (self.steps[-1] - self.steps[start]) / max(times[-1] - times[start], 1e-9)


class Runs:
    """A file of results. It is written anew after each run, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        held = json.loads(path.read_text()) if path.is_file() else []
        self.all = [PeerRun(**entry) for entry in held]

    def add(self, run: PeerRun) -> None:
        self.all = [one for one in self.all if (one.name, one.seed) != (run.name, run.seed)] + [run]
        lines = ",\n".join(json.dumps(asdict(one)) for one in self.all)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, f"[\n{lines}\n]\n")

    def of(self, name: str) -> list[PeerRun]:
        return sorted((run for run in self.all if run.name == name), key=lambda run: run.seed)

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(run.name for run in self.all))


def figures(runs: Runs) -> dict[str, dict[str, tuple[float, str]]]:
    """Medians over seeds, with units."""
    found: dict[str, dict[str, tuple[float, str]]] = {}
    for name in runs.names:
        of = runs.of(name)
        found[name] = {
            "steps per second": (statistics.median(run.rate(run.wall) for run in of), "steps/s"),
            "steps per CPU second": (statistics.median(run.rate(run.cpu) for run in of), "steps/s"),
        }
        last = [run.mean_return[-1] for run in of if run.mean_return[-1] is not None]
        if last:
            found[name]["mean return at the end"] = (statistics.median(last), "raw")
    return found


def table(runs: Runs) -> list[str]:
    """Lines of Markdown; one number per seed."""
    minutes = " | ".join(f"{minute} min" for minute in MINUTES)
    cpu = " | ".join(f"{minute} CPU min" for minute in MINUTES)
    lines = [
        f"| program | steps/s | steps per CPU s | {minutes} | {cpu} | CPU min to {GOAL:g} |",
        "|---" * (4 + 2 * len(MINUTES)) + "|",
    ]
    for name in runs.names:
        of = runs.of(name)
        cells = [
            name,
            _each(run.rate(run.wall) for run in of),
            _each(run.rate(run.cpu) for run in of),
            *(_each((run.at(run.wall, 60 * minute) for run in of), 1) for minute in MINUTES),
            *(_each((run.at(run.cpu, 60 * minute) for run in of), 1) for minute in MINUTES),
            _each(((run.reached(run.cpu, GOAL) or 0) / 60 or None for run in of), 1),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _each(values, digits: int = 0) -> str:
    return " ".join("-" if value is None else f"{value:,.{digits}f}" for value in values)


def write(runs: Runs, results: Path) -> None:
    replace_table(results / "README.md", "python -m benchmarks peers", table(runs))
    picture(runs, results / "peers.png")


def picture(runs: Runs, path: Path) -> None:
    """Return over minutes of the clock, and over minutes of CPU; a line per run."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    for number, name in enumerate(runs.names):
        for order, run in enumerate(runs.of(name)):
            for panel, times in zip(panels, (run.wall, run.cpu), strict=True):
                known = [(t / 60, mean) for t, mean in zip(times, run.mean_return, strict=True) if mean is not None]
                label = name if order == 0 and panel is panels[0] else None
                panel.plot(*zip(*known, strict=True), color=f"C{number}", label=label, linewidth=1.2)
    for panel, what in zip(panels, ("minutes", "minutes of CPU, all processes"), strict=True):
        panel.set(xlabel=what)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean raw return of the last 100 games")
    figure.legend(fontsize=9, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=80)
