"""What each recurrence and rule learns on tasks that need memory: ``python -m benchmarks.recurrences [run|speed|table] [NAME=VALUE ...]``.

``run`` trains every agent on every task with every seed, each a program of its own on one core. What docs/results/data/recurrences.json
has is left alone, so that it goes on where it was stopped. ``speed`` measures every agent alone, a hundred thousand steps. ``table``
makes the tables and the picture of docs/results/README.md from that file. Without a word: all three.

jobs=N        programs of ``run`` at a time (2)
only=A;B      agents and tasks whose "task, agent" has one of these in it
folder=PATH   where the runs go (runs/recurrences)
"""

import statistics
import sys
from pathlib import Path

from benchmarks.learning import RESULTS, Agent, Store, Study, Task
from benchmarks.report import replace_table

TASKS = (
    Task("T-maze 100", 1_200_000, ("experiment=tmaze", "env.corridor=100")),
    Task("T-maze 300", 2_000_000, ("experiment=tmaze", "env.corridor=300")),
    Task("delayed match", 2_000_000, ("experiment=delayed_match",)),
)
# What ``network.forget_bias=6`` of the tasks is to the first ones, memories of some hundred steps at the start, in the words of the others.
_RING = ("network.core_options.min_radius=0.99", "network.core_options.max_radius=0.999")
_LSTM = ("network.core=lstm", "network.core_options.input_bias=-6")
AGENTS = (
    Agent("eLSTM, exact", ()),
    Agent("minGRU, exact", ("network.core=mingru", "network.core_options.keep_bias=6")),
    Agent("minLSTM, exact", ("network.core=minlstm",)),
    Agent("sLSTM, exact", ("network.core=slstm",)),
    Agent("RG-LRU, exact", ("network.core=rglru",)),
    Agent("LRU, exact", ("network.core=lru", *_RING)),
    Agent("RTU, exact", ("network.core=rtu", *_RING)),
    Agent("RetNet, exact", ("network.core=retnet",)),
    Agent("2 x eLSTM, per layer", ("network.layers=2",)),
    Agent("LSTM, snap1", (*_LSTM, "rule=snap1")),
    Agent("LSTM, leak", (*_LSTM, "rule=leak")),
    Agent("LSTM, uoro", (*_LSTM, "rule=uoro")),
    Agent("LSTM, tbptt", (*_LSTM, "rule=tbptt")),
    Agent("eLSTM, tbptt", ("rule=tbptt",)),
    Agent("averages, none learned", ("network.core=ema",)),
)


def table(store: Store) -> list[str]:
    """Lines of Markdown: of each agent and task success at the end per seed, steps to 95 %, and the minutes that they take."""
    lines = [
        "| | " + " | ".join(f"{task.name}, % | to 95 %, M steps | minutes" for task in TASKS) + " |",
        "|---" * (1 + 3 * len(TASKS)) + "|",
    ]
    for agent in AGENTS:
        cells = [agent.name]
        for task in TASKS:
            curves, rate = store.of(task, agent), store.speed.get(agent.name, {}).get(task.name)
            reached = [curve.learned_at for curve in curves]
            cells.append(" ".join(f"{100 * curve.final:.0f}" for curve in curves) or "-")
            cells.append(" ".join("never" if step is None else f"{step / 1e6:.2f}" for step in reached) or "-")
            steps = [step for step in reached if step is not None]
            cells.append(f"{statistics.median(steps) / rate / 60:.1f}" if steps and rate else "-")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| steps/s, alone on one core | " + " | ".join(task.name for task in TASKS) + " |"]
    lines.append("|---" * (1 + len(TASKS)) + "|")
    for agent in AGENTS:
        rates = [store.speed.get(agent.name, {}).get(task.name) for task in TASKS]
        lines.append(
            f"| {agent.name} | " + " | ".join("-" if rate is None else f"{rate:,.0f}" for rate in rates) + " |"
        )
    return lines


def draw(store: Store, path: Path) -> None:
    """A panel per task; the line is the mean over seeds, the band goes from the lowest to the highest."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, len(TASKS), figsize=(5.2 * len(TASKS), 5), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab20").colors  # pyright: ignore[reportAttributeAccessIssue]
    for panel, task in zip(panels, TASKS, strict=True):
        for agent, colour in zip(AGENTS, colours, strict=False):
            if not (curves := store.of(task, agent)):
                continue
            steps = np.linspace(0, task.steps, 60)
            rates = 100 * np.array([np.interp(steps, curve.steps, curve.mean_return) for curve in curves])
            panel.plot(steps / 1e6, rates.mean(0), color=colour, label=agent.name)
            panel.fill_between(steps / 1e6, rates.min(0), rates.max(0), color=colour, alpha=0.15, linewidth=0)
        panel.set(title=task.name, xlabel="million agent steps", ylim=(40, 101))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("success of the last 100 games, %")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=9, loc="outside right upper")
    figure.savefig(path, dpi=80)


def write(store: Store) -> None:
    replace_table(RESULTS / "README.md", "python -m benchmarks.recurrences table", table(store))
    draw(store, RESULTS / "recurrences.png")


STUDY = Study("recurrences", TASKS, AGENTS, (1, 2, 3), ("fleet=local", "fleet.num_actors=1"), write, __doc__ or "")


if __name__ == "__main__":
    sys.exit(STUDY.main(sys.argv[1:]))
