"""The table and the picture of runs of peers."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.peers.compare import PEERS
from benchmarks.peers.store import DATA, Runs
from benchmarks.report import replace_table

MINUTES = (3, 6, 10, 15)
GOAL = 10.0


def table(runs: Runs) -> list[str]:
    """Lines of Markdown; one number per seed."""
    wall = " | ".join(f"{minute} min" for minute in MINUTES)
    lines = [
        f"| program | steps/s | steps per CPU s | s to start | {wall} | CPU min to {GOAL:g} |",
        "|---" * (5 + len(MINUTES)) + "|",
    ]
    for peer in PEERS:
        if not (of := runs.of(peer.key)):
            continue
        cells = [
            peer.name,
            _each(run.rate(run.wall) for run in of),
            _each(run.rate(run.cpu) for run in of),
            _each(run.start for run in of),
            *(_each((run.at(run.wall, 60 * minute) for run in of), 1) for minute in MINUTES),
            " ".join(_to_goal(run.reached(run.cpu, GOAL), run.cpu[-1]) for run in of),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _each(values: Iterable[float | None], digits: int = 0) -> str:
    return " ".join("-" if value is None else f"{value:,.{digits}f}" for value in values)


def _to_goal(when: float | None, end: float) -> str:
    return f"{when / 60:.1f}" if when is not None else f">{end / 60:.0f}"


def write(runs: Runs, folder: Path) -> None:
    """Beside the file of runs."""
    (folder / "table.md").write_text("\n".join([*table(runs), ""]))
    picture(runs, folder / "peers.png")


def publish(runs: Runs, results: Path) -> None:
    """Into docs/results. Raises ``ValueError`` if its page has no place for the table."""
    replace_table(results / "README.md", "python -m benchmarks.peers publish", table(runs))
    picture(runs, results / "peers.png")
    runs.copy(results / "data" / DATA)


def picture(runs: Runs, path: Path) -> None:
    """Mean return over minutes of the clock, over minutes of CPU, and over steps; a line per run."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(15, 5), layout="constrained", sharey=True)
    for number, peer in enumerate(PEERS):
        for order, run in enumerate(runs.of(peer.key)):
            means = [run.mean_return(index) for index in range(len(run.wall))]
            clocks = ([s / 60 for s in run.wall], [s / 60 for s in run.cpu], [n / 1e3 for n in run.steps])
            for panel, clock in zip(panels, clocks, strict=True):
                known = [(time, mean) for time, mean in zip(clock, means, strict=True) if mean is not None]
                label = peer.name.replace("`", "") if order == 0 and panel is panels[0] else None
                if known:
                    panel.plot(*zip(*known, strict=True), color=f"C{number}", label=label, linewidth=1.2)
    for panel, what in zip(panels, ("minutes", "minutes of CPU, all processes", "thousand steps"), strict=True):
        panel.set(xlabel=what)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean raw return")
    if panels[0].get_legend_handles_labels()[0]:
        figure.legend(fontsize=9, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=80)
    plt.close(figure)
