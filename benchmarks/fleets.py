"""What many actors learn from as many steps: ``python -m benchmarks.fleets [run|table] [NAME=VALUE ...]``.

``run`` trains Breakout with each fleet for some four minutes, and a T-maze, all actors of a fleet in one process on one core. They take
turns there, so that what each contributes is as late as it would be with a core for each, only more slowly. What
docs/results/data/fleets.json has is left alone, so that it goes on where it was stopped. ``table`` makes the tables of
docs/results/README.md from that file, which has some runs that are not done again: of a machine with sixteen cores, twenty minutes of two
fleets, and of code that was tried and is no more.

jobs=N        programs of ``run`` at a time (2)
only=A;B      fleets whose "task, fleet" has one of these in it
folder=PATH   where the runs go (runs/fleets)
"""

import statistics
import sys

from benchmarks.learning import COLD, RESULTS, Agent, Curve, Store, Study, Task
from benchmarks.report import replace_table

NOT_RUN = ("Breakout, sixteen cores", "Breakout, many actors, tried")
"""Of the first, a machine of sixteen cores had one run at a time; the code of the second is no more."""
UNROLL = 32


def fleet(
    actors: int, streams: int, segments: int, *words: str, seeds: tuple[int, ...] = (1,), unroll: int = UNROLL
) -> Agent:
    late = (actors - 1) / (segments / streams)
    name = f"{actors} x {streams} | {unroll * segments:,} | {late:.1f} | {' '.join(f'`{word}`' for word in words)}"
    sizes = (f"fleet.num_actors={actors}", f"actors.num_envs={streams}", f"learner.batch_segments={segments}")
    return Agent(name, (*sizes, *words), seeds)


BREAKOUT: tuple[Agent, ...] = (
    fleet(2, 8, 8),
    fleet(4, 8, 8),
    fleet(4, 8, 16),
    fleet(16, 1, 8),
    fleet(16, 2, 8, seeds=(1, 2)),
    fleet(16, 2, 16, seeds=(1, 2)),
    fleet(16, 4, 8),
    fleet(16, 4, 16, seeds=(1, 2)),
    fleet(16, 4, 32),
    fleet(16, 8, 64),
    fleet(16, 2, 8, "learner.learning_rate=0.0005"),
    fleet(16, 4, 8, "learner.learning_rate=0.0005"),
    fleet(16, 8, 8, "learner.learning_rate=0.0001"),
    fleet(16, 8, 64, "learner.learning_rate=0.002"),
    fleet(64, 1, 32),
)
"""Actors and streams of each; segments per update."""
MAZE = tuple(
    fleet(*sizes, seeds=seeds, unroll=10)
    for sizes, seeds in (((2, 64, 64), (1, 2)), ((4, 64, 64), (1,)), ((16, 64, 128), (1,)), ((16, 64, 512), (1,)))
)
"""The second is what ``experiment=tmaze`` was on four cores, the third on sixteen."""
TASK = Task(
    "Breakout, many actors",
    20_000_000,
    ("experiment=atari_breakout", *COLD),
    minutes=4.25,
    row_steps=5_120,
    agents=tuple(agent.name for agent in BREAKOUT),
)
MAZE_TASK = Task("T-maze", 900_000, ("experiment=tmaze",), agents=tuple(agent.name for agent in MAZE))
LONGER = "Breakout, many actors, longer"
LONG = tuple(agent.name for agent in (fleet(16, 2, 16), fleet(64, 1, 32)))
HEAD = "| actors x streams | steps per update | updates late | changed | k steps | mean return | encoder |"


def line(curves: list[Curve], name: str) -> str:
    steps = " ".join(f"{curve.steps[-1] / 1000:.0f}" for curve in curves)
    returns = " ".join(f"{curve.mean_return[-1]:.1f}" for curve in curves)
    shares = " ".join(f"{lately(curve.encoder):.2g}" for curve in curves)
    return f"| {name} | {steps} | {returns} | {shares} |"


def lately(shares: list[float]) -> float:
    """Median of the last fifth."""
    return statistics.median(shares[-max(1, len(shares) // 5) :])


def table(store: Store) -> list[str]:
    """Lines of Markdown: a few minutes of each fleet, twenty of two, those of sixteen cores, what was tried, and the T-maze."""
    lines: list[str] = []
    for task, names in (
        (TASK.name, TASK.agents),
        (LONGER, LONG),
        *((task, sorted({curve.agent for curve in store.curves if curve.task == task})) for task in NOT_RUN),
        (MAZE_TASK.name, MAZE_TASK.agents),
    ):
        lines += [f"**{task}**", "", HEAD, "|---" * 7 + "|"]
        for name in names:
            found = [curve for curve in store.curves if (curve.task, curve.agent) == (task, name)]
            lines += [line(sorted(found, key=lambda curve: curve.seed), name)] if found else []
        lines.append("")
    return lines[:-1]


def write(store: Store) -> None:
    replace_table(RESULTS / "README.md", "python -m benchmarks.fleets table", table(store))


STUDY = Study("fleets", (TASK, MAZE_TASK), (*BREAKOUT, *MAZE), (1, 2), ("fleet=local",), write, __doc__ or "")


if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
