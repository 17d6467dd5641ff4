"""What the settings of ``make train`` are worth, one change at a time: ``python -m benchmarks.defaults [run|table] [NAME=VALUE ...]``.

``run`` trains Breakout for ten minutes with every setting, each a program of its own on one core. What docs/results/data/defaults.json
has is left alone, so that it goes on where it was stopped. ``table`` makes the table and the picture of docs/results/README.md from that
file.

jobs=N        programs of ``run`` at a time (2)
only=A;B      settings whose "task, setting" has one of these in it
folder=PATH   where the runs go (runs/defaults)
"""

import sys

from benchmarks.algorithms import then
from benchmarks.learning import FIRST_BREAKOUT, RESULTS, Agent, Store, Study, Task, curves_by_minutes
from benchmarks.report import replace_table

MINUTES = 10
TASKS = (Task("Breakout", 20_000_000, ("experiment=atari_breakout",), minutes=MINUTES, row_steps=5_120),)
AGENTS: tuple[Agent, ...] = (
    Agent("make train", ()),
    Agent("before", FIRST_BREAKOUT),
    Agent("half the streams, unrolls twice as long", ("actors.num_envs=4", "actors.unroll=64")),
    Agent(
        "streams, unrolls and returns as before",
        ("actors.num_envs=16", "actors.unroll=20", "loss.trace_decay=1.0"),
        seeds=(1,),
    ),
)
PICTURED = ("make train", "before")


def table(store: Store) -> list[str]:
    """Lines of Markdown: of each setting the returns per seed, after half of the time and after all of it."""
    (task,) = TASKS
    times = f"after {MINUTES / 2:g} minutes | after {MINUTES} minutes"
    lines = [f"| setting | changed from `make train` | {times} | k steps |", "|---" * 5 + "|"]
    for agent in AGENTS:
        curves = store.of(task, agent)
        cells = [
            agent.name,
            " ".join(f"`{word}`" for word in agent.words) or "-",
            " ".join(f"{then(curve, curve.wall, 30 * MINUTES):.1f}" for curve in curves),
            " ".join(f"{curve.mean_return[-1]:.1f}" for curve in curves),
            " ".join(f"{curve.steps[-1] / 1000:.0f}" for curve in curves),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(store: Store) -> None:
    replace_table(RESULTS / "README.md", "python -m benchmarks.defaults table", table(store))
    pictured = [agent for agent in AGENTS if agent.name in PICTURED]
    curves_by_minutes(store, TASKS, pictured, RESULTS / "defaults.png")


STUDY = Study("defaults", TASKS, AGENTS, (1, 2, 3), ("fleet=local", "fleet.num_actors=2"), write, __doc__ or "")


if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
