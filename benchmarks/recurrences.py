"""``python -m benchmarks.recurrences [run|table] [jobs=N] [folder=PATH]``: what each recurrence and rule learns on tasks that need memory.

``run`` trains every agent on every task with every seed, ``jobs`` at a time, each a program of its own; what is finished is left alone, so
that it goes on where it was stopped. ``table`` writes the table of docs/results/README.md and draws ``recurrences.png``.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SEEDS = (1, 2, 3)
LEARNED = 0.95
REMEMBERS = ("network.core_options.min_radius=0.9", "network.core_options.max_radius=0.999")
"""Of the turning cells, what ``network.forget_bias`` is to the others: memories of 10 to 1000 steps."""


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    steps: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agent:
    name: str
    words: tuple[str, ...]


TASKS = (
    Task("T-maze 100", 900_000, ("experiment=tmaze", "env.corridor=100")),
    Task("T-maze 300", 2_000_000, ("experiment=tmaze", "env.corridor=300")),
    Task("delayed match", 2_000_000, ("experiment=delayed_match",)),
)
AGENTS = (
    Agent("eLSTM, exact", ()),
    Agent("minLSTM, exact", ("network.core=minlstm",)),
    Agent("sLSTM, exact", ("network.core=slstm",)),
    Agent("RTU, exact", ("network.core=rtu", *REMEMBERS)),
    Agent("LRU, exact", ("network.core=lru", *REMEMBERS)),
    Agent("RetNet, exact", ("network.core=retnet",)),
    Agent("2 x eLSTM, exact per layer", ("network.layers=2",)),
    Agent("LSTM, snap1", ("network.core=lstm", "rule=snap1")),
    Agent("LSTM, leak", ("network.core=lstm", "rule=leak")),
    Agent("LSTM, uoro", ("network.core=lstm", "rule=uoro")),
    Agent("LSTM, tbptt", ("network.core=lstm", "rule=tbptt")),
    Agent("eLSTM, tbptt", ("rule=tbptt",)),
    Agent("averages, nothing learned", ("network.core=ema",)),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One run, by rows of its log."""

    steps: list[int]
    success: list[float]
    """Of the last hundred games."""
    seconds: float

    @classmethod
    def read(cls, folder: Path) -> "Curve":
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if row.get("mean_return_100") is not None]
        summary = json.loads((folder / "summary.json").read_text())
        return cls(
            [row["agent_steps"] for row in rows], [row["mean_return_100"] for row in rows], summary["wall_time_s"]
        )

    @property
    def final(self) -> float:
        """Mean over the last tenth of the run."""
        tail = self.success[-max(1, len(self.success) // 10) :]
        return sum(tail) / len(tail)

    @property
    def learned_at(self) -> int | None:
        return next((step for step, rate in zip(self.steps, self.success, strict=True) if rate >= LEARNED), None)


def run_folder(root: Path, task: Task, agent: Agent, seed: int) -> Path:
    name = f"{task.name} {agent.name}".replace(",", "").replace(" ", "_").lower()
    return root / f"{name}_{seed}"


def train(root: Path, jobs: int) -> None:
    """Raises ``CalledProcessError`` for a run that failed."""
    todo = [(task, agent, seed) for task in TASKS for seed in SEEDS for agent in AGENTS]

    def one(job: tuple[Task, Agent, int]) -> None:
        task, agent, seed = job
        folder = run_folder(root, *job)
        words = [
            "fleet=local",
            "fleet.num_actors=1",
            "logging.interval_steps=20480",
            f"seed={seed}",
            f"name={folder.name}",
        ]
        words += [f"total_steps={task.steps}", f"run_dir={folder}", *task.words, *agent.words]
        program = [sys.executable, "-m", "r2ac.commands.train", *words]
        done = subprocess.run(program, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1:]}")
        curve = Curve.read(folder)
        print(f"{task.name}, {agent.name}, seed {seed}: {100 * curve.final:.1f} %, {curve.seconds:.0f} s", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, todo))


def table(root: Path) -> str:
    """Markdown: for each agent and task success at the end per seed, steps to 95 %, seconds."""
    lines = [
        "| | " + " | ".join(f"{task.name} | to 95 % | s" for task in TASKS) + " |",
        "|---" * (1 + 3 * len(TASKS)) + "|",
    ]
    for agent in AGENTS:
        cells = [agent.name]
        for task in TASKS:
            folders = [run_folder(root, task, agent, seed) for seed in SEEDS]
            curves = [Curve.read(folder) for folder in folders if (folder / "summary.json").is_file()]
            cells.append(" ".join(f"{100 * curve.final:.0f}" for curve in curves) or "-")
            reached = [curve.learned_at for curve in curves]
            cells.append(" ".join("never" if step is None else f"{step / 1e6:.2f}" for step in reached) or "-")
            cells.append(f"{sorted(curve.seconds for curve in curves)[len(curves) // 2]:.0f}" if curves else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(root: Path, path: Path) -> None:
    """A panel per task; the line is the mean over seeds, the band goes from the lowest to the highest."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, len(TASKS), figsize=(5.2 * len(TASKS), 5), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab20").colors  # pyright: ignore[reportAttributeAccessIssue]
    for panel, task in zip(panels, TASKS, strict=True):
        for agent, colour in zip(AGENTS, colours, strict=False):
            folders = [run_folder(root, task, agent, seed) for seed in SEEDS]
            curves = [Curve.read(folder) for folder in folders if (folder / "summary.json").is_file()]
            if not curves:
                continue
            steps = np.linspace(0, task.steps, 60)
            rates = 100 * np.array([np.interp(steps, curve.steps, curve.success) for curve in curves])
            panel.plot(steps / 1e6, rates.mean(0), color=colour, label=agent.name)
            panel.fill_between(steps / 1e6, rates.min(0), rates.max(0), color=colour, alpha=0.15, linewidth=0)
        panel.set(title=task.name, xlabel="million agent steps", ylim=(40, 101))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("success of the last 100 games, %")
    panels[-1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str]) -> int:
    options = dict(word.split("=", 1) for word in argv if "=" in word)
    verbs = [word for word in argv if "=" not in word] or ["run", "table"]
    if set(verbs) - {"run", "table"} or set(options) - {"jobs", "folder"}:
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(options.get("folder", "runs/recurrences"))
    if "run" in verbs:
        train(root, int(options.get("jobs", "2")))
    if "table" in verbs:
        print(table(root))
        draw(root, RESULTS / "recurrences.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
