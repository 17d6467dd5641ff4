"""The settings of ``make train`` on tasks that they were not found on: ``python -m benchmarks.elsewhere [run|table] [NAME=VALUE ...]``.

``run`` trains each task with them, and with what they were before, each a program of its own on one core, for some minutes. What
docs/results/data/elsewhere.json has is left alone, so that it goes on where it was stopped. ``table`` makes the table and the picture of
docs/results/README.md from that file.

jobs=N        programs of ``run`` at a time (2)
only=A;B      settings whose "task, setting" has one of these in it
folder=PATH   where the runs go (runs/elsewhere)
"""

import sys

from benchmarks.algorithms import then
from benchmarks.learning import FIRST_BREAKOUT, RESULTS, Agent, Store, Study, Task, curves_by_minutes
from benchmarks.report import replace_table

STEPS = 20_000_000
"""More than anybody gets."""
MAZE, MATCH = ("env=tmaze", "env.corridor=20"), ("env=delayed_match",)
LONG = ("network.forget_bias=6", "loss.discount=1")
"""What ``experiment=tmaze`` and ``delayed_match`` have, because nothing is kept long enough to be learned otherwise."""
NO_PICTURE = ("network.encoder=none", "network.num_units=64")
TASKS = (
    Task("Pong", STEPS, ("env=atari/pong",), minutes=20, row_steps=5_120, seeds=(1,)),
    Task(
        "ProcGen Chaser, easy", STEPS, ("env=procgen/chaser", "env.mode=easy"), minutes=10, row_steps=5_120, seeds=(1,)
    ),
    Task("T-maze 20, as it is", STEPS, (*MAZE, *NO_PICTURE), minutes=3, row_steps=10_240, seeds=(1,)),
    Task("delayed match 30, as it is", STEPS, (*MATCH, *NO_PICTURE), minutes=3, row_steps=10_240, seeds=(1,)),
    Task("T-maze 20, long memory", STEPS, (*MAZE, *NO_PICTURE, *LONG), minutes=3, row_steps=10_240),
    Task("delayed match 30, long memory", STEPS, (*MATCH, *NO_PICTURE, *LONG), minutes=3, row_steps=10_240),
)
PICTURED = ("Pong", "ProcGen Chaser, easy", "T-maze 20, long memory")
"""Of which something is learned."""
AGENTS = (Agent("settings of `make train`", ()), Agent("settings before", FIRST_BREAKOUT))


def table(store: Store) -> list[str]:
    """Lines of Markdown: of each task and setting the returns per seed, after half of the time and after all of it."""
    lines = ["| task | settings | minutes | return after half of them | at the end | k steps |", "|---" * 6 + "|"]
    for task in TASKS:
        assert task.minutes is not None
        for agent in AGENTS:
            curves = store.of(task, agent)
            cells = [
                task.name,
                agent.name,
                f"{task.minutes:g}",
                " ".join(f"{then(curve, curve.wall, 30 * task.minutes):.2f}" for curve in curves),
                " ".join(f"{curve.mean_return[-1]:.2f}" for curve in curves),
                " ".join(f"{curve.steps[-1] / 1000:.0f}" for curve in curves),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(store: Store) -> None:
    replace_table(RESULTS / "README.md", "python -m benchmarks.elsewhere table", table(store))
    learned = [task for task in TASKS if task.name in PICTURED]
    curves_by_minutes(store, learned, AGENTS, RESULTS / "elsewhere.png")


STUDY = Study("elsewhere", TASKS, AGENTS, (1, 2), ("fleet=local", "fleet.num_actors=2"), write, __doc__ or "")


if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
