"""What R2AC and IMPALA learn in the same steps and the same time: ``python -m benchmarks.algorithms [run|speed|table] [NAME=VALUE ...]``.

``run`` trains every agent on every task with every seed, each a program of its own on one core. What docs/results/data/algorithms.json
has is left alone, so that it goes on where it was stopped. ``speed`` measures every agent alone. ``table``
makes the table and the picture of docs/results/README.md from that file. Without a word: all three.

jobs=N        programs of ``run`` at a time (2)
only=A;B      agents and tasks whose "task, agent" has one of these in it
folder=PATH   where the runs go (runs/algorithms)
"""

import sys

from benchmarks.learning import FIRST_BREAKOUT, RESULTS, Agent, Curve, Store, Study, Task, curves_by_minutes
from benchmarks.report import replace_table

_PUBLISHED = ("R2AC, eLSTM, exact", "IMPALA, LSTM, tbptt")
TASKS = (
    Task("T-maze 100", 1_200_000, ("experiment=tmaze", "env.corridor=100")),
    Task("delayed match", 2_000_000, ("experiment=delayed_match",)),
    Task(
        "Breakout",
        20_000_000,
        ("experiment=atari_breakout", *FIRST_BREAKOUT),
        minutes=15,
        row_steps=10_240,
        speed_steps=20_000,
        agents=_PUBLISHED,
    ),
)
_LSTM = ("network.core=lstm", "rule=tbptt")
AGENTS = (
    Agent("R2AC, eLSTM, exact", ()),
    Agent("R2AC, LSTM, tbptt", _LSTM),
    Agent("IMPALA, LSTM, tbptt", ("algorithm=impala", *_LSTM)),
    Agent("IMPALA, eLSTM, exact, S_0 shipped", ("algorithm=impala", "algorithm.options.ship=trajectories_s0")),
)


def then(curve: Curve, at: list[float], limit: float) -> float:
    """The mean return of the last hundred games when ``at``, steps or seconds of the rows, reached a limit."""
    rows = [mean for mean, reached in zip(curve.mean_return, at, strict=True) if reached <= limit]
    return rows[-1] if rows else curve.mean_return[0]


def table(store: Store) -> list[str]:
    """Lines of Markdown: of each task, every agent's returns per seed after the same steps and after the same time."""
    lines = []
    for task in TASKS:
        agents = [agent for agent in AGENTS if not task.agents or agent.name in task.agents]
        curves = [curve for agent in agents for curve in store.of(task, agent)]
        steps = min(curve.steps[-1] for curve in curves)
        seconds = min(curve.wall[-1] for curve in curves)
        heads = [task.name, f"after {steps / 1e6:.2f} M steps", f"after {seconds / 60:.1f} minutes"]
        lines += [f"| {' | '.join([*heads, 'to 95 %, M steps', 'steps/s, alone on one core'])} |", "|---" * 5 + "|"]
        for agent in agents:
            of_agent = store.of(task, agent)
            reached = [curve.learned_at for curve in of_agent] if task.minutes is None else []
            rate = store.speed.get(agent.name, {}).get(task.name)
            cells = [
                agent.name,
                " ".join(f"{then(curve, [float(step) for step in curve.steps], steps):.2f}" for curve in of_agent),
                " ".join(f"{then(curve, curve.wall, seconds):.2f}" for curve in of_agent),
                " ".join("never" if step is None else f"{step / 1e6:.2f}" for step in reached) or "-",
                "-" if rate is None else f"{rate:,.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def write(store: Store) -> None:
    replace_table(RESULTS / "README.md", "python -m benchmarks.algorithms table", table(store))
    curves_by_minutes(store, TASKS, AGENTS, RESULTS / "algorithms.png")


STUDY = Study("algorithms", TASKS, AGENTS, (1, 2), ("fleet=local", "fleet.num_actors=4"), write, __doc__ or "")


if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
