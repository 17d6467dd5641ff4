"""What R2D2 learns on a small machine: ``python -m benchmarks.r2d2 run table [NAME=VALUE ...]``.

``run`` trains every agent on every task with every seed, each a program of its own on one core. What docs/results/data/r2d2.json has is
left alone, so that it goes on where it was stopped. ``table`` makes the table and the picture of docs/results/README.md from that file.

jobs=N        programs of ``run`` at a time (2)
only=A;B      agents and tasks whose "task, agent" has one of these in it
folder=PATH   where the runs go (runs/r2d2)
"""

import sys

from benchmarks.learning import RESULTS, Agent, Store, Study, Task, curves_by_minutes
from benchmarks.report import replace_table

FULL, CUT = "R2D2", "R2D2, burn-in without gradient"
TASKS = (
    Task("T-maze 20", 300_000, ("experiment=tmaze_r2d2",), row_steps=10_240),
    Task("MiniGrid MemoryS7", 800_000, ("experiment=minigrid_memory_r2d2",), row_steps=20_480, agents=(FULL,)),
    Task(
        "Breakout",
        10_000_000,
        ("experiment=atari_breakout_r2d2_small",),
        minutes=20,
        row_steps=10_240,
        agents=(FULL,),
    ),
)
AGENTS = (
    Agent(FULL, ()),
    Agent(CUT, ("algorithm.options.burn_in_gradient=false",)),
)


def table(store: Store) -> list[str]:
    """Lines of Markdown: of each agent on each task what it got at the end, seed by seed."""
    lines = [
        "| task, agent | return, last tenth of the run | to 95 %, M steps | M steps | minutes |",
        "|---" * 5 + "|",
    ]
    for task, agent in STUDY.chosen(""):
        curves = store.of(task, agent)
        reached = [curve.learned_at for curve in curves] if task.minutes is None else []
        cells = [
            f"{task.name}, {agent.name}",
            " ".join(f"{curve.final:.2f}" for curve in curves),
            " ".join("never" if step is None else f"{step / 1e6:.2f}" for step in reached) or "-",
            " ".join(f"{curve.steps[-1] / 1e6:.2f}" for curve in curves),
            " ".join(f"{curve.seconds / 60:.1f}" for curve in curves),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(store: Store) -> None:
    replace_table(RESULTS / "README.md", "python -m benchmarks.r2d2 table", table(store))
    curves_by_minutes(store, TASKS, AGENTS, RESULTS / "r2d2.png")


STUDY = Study("r2d2", TASKS, AGENTS, (1, 2), ("fleet=local", "fleet.num_actors=1"), write, __doc__ or "")


if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
