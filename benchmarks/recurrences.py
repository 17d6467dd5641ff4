"""What each recurrence and rule learns on tasks that need memory: ``python -m benchmarks.recurrences [run|speed|table] [NAME=VALUE ...]``.

``run`` trains every agent on every task with every seed, each a program of its own on one core. What docs/results/data/recurrences.json
has is left alone, so that it goes on where it was stopped. ``speed`` measures every agent alone, a hundred thousand steps. ``table``
makes the tables and the picture of docs/results/README.md from that file. Without a word: all three.

jobs=N        programs of ``run`` at a time (2)
only=A;B      agents and tasks whose "task, agent" has one of these in it
folder=PATH   where the runs go (runs/recurrences)
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.report import replace_table
from r2ac.persistence.writing import replace_file

RESULTS = Path(__file__).parents[1] / "docs" / "results"
DATA = RESULTS / "data" / "recurrences.json"
SEEDS = (1, 2, 3)
LEARNED = 0.95
SPEED_STEPS = 100_000


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


@dataclass(frozen=True, slots=True)
class Curve:
    """One run, by rows of its log."""

    task: str
    agent: str
    seed: int
    steps: list[int]
    success: list[float]
    """Of the last hundred games."""
    seconds: float

    @property
    def final(self) -> float:
        """Mean over the last tenth of the run."""
        return statistics.mean(self.success[-max(1, len(self.success) // 10) :])

    @property
    def learned_at(self) -> int | None:
        """Steps at the first row of 95 %."""
        return next((step for step, rate in zip(self.steps, self.success, strict=True) if rate >= LEARNED), None)


class Store:
    """The file of results. It is written anew after each run, whole or not at all."""

    def __init__(self, path: Path = DATA) -> None:
        self._path, self._lock = path, Lock()
        held: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        self.curves = [Curve(**curve) for curve in held.get("curves", [])]
        self.speed: dict[str, dict[str, float]] = held.get("speed", {})
        """Steps per second of each agent on each task."""

    def of(self, task: Task, agent: Agent) -> list[Curve]:
        found = [curve for curve in self.curves if (curve.task, curve.agent) == (task.name, agent.name)]
        return sorted(found, key=lambda curve: curve.seed)

    def add(self, curve: Curve) -> None:
        with self._lock:
            self.curves.append(curve)
            self.save()

    def save(self) -> None:
        order = sorted(self.curves, key=lambda curve: (curve.task, curve.agent, curve.seed))
        lines = ",\n".join(json.dumps(asdict(curve)) for curve in order)
        speed = json.dumps(self.speed, indent=1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, f'{{"curves": [\n{lines}\n],\n"speed": {speed}}}\n')


def program(task: Task, agent: Agent, folder: Path, *words: str) -> list[dict[str, Any]]:
    """Trains on one core; returns the rows of the log. Raises ``RuntimeError`` for a run that failed."""
    words = ("fleet=local", "fleet.num_actors=1", f"run_dir={folder}", *task.words, *agent.words, *words)
    command = [sys.executable, "-m", "r2ac.commands.train", *words]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def slug(task: Task, agent: Agent) -> str:
    return f"{task.name}_{agent.name}".replace(",", "").replace(" ", "_").lower()


def chosen(only: str) -> Iterator[tuple[Task, Agent]]:
    parts = only.split(";")
    for task in TASKS:
        for agent in AGENTS:
            if any(part.strip() in f"{task.name}, {agent.name}" for part in parts):
                yield task, agent


def run(store: Store, root: Path, jobs: int, only: str) -> None:
    """Raises ``RuntimeError`` for a run that failed, after the others."""
    todo = [
        (task, agent, seed)
        for seed in SEEDS
        for task, agent in chosen(only)
        if seed not in {curve.seed for curve in store.of(task, agent)}
    ]

    def one(job: tuple[Task, Agent, int]) -> None:
        task, agent, seed = job
        folder = root / f"{slug(task, agent)}_{seed}"
        rows = program(task, agent, folder, f"seed={seed}", f"total_steps={task.steps}", "logging.interval_steps=40960")
        known = [row for row in rows if row.get("mean_return_100") is not None]
        seconds = json.loads((folder / "summary.json").read_text())["wall_time_s"]
        success = [round(row["mean_return_100"], 3) for row in known]
        curve = Curve(task.name, agent.name, seed, [row["agent_steps"] for row in known], success, round(seconds, 1))
        store.add(curve)
        print(f"{task.name}, {agent.name}, seed {seed}: {100 * curve.final:.1f} %, {seconds:.0f} s", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, todo))


def measure_speed(store: Store, root: Path, only: str) -> None:
    """One agent after the other, so that none slows another; the first rows warm up."""
    for task, agent in chosen(only):
        folder = root / f"speed_{slug(task, agent)}_{os.getpid()}"
        rows = program(task, agent, folder, f"total_steps={SPEED_STEPS}", "logging.interval_steps=20480")
        first, last = rows[1], rows[-1]
        rate = (last["agent_steps"] - first["agent_steps"]) / (last["wall_time_s"] - first["wall_time_s"])
        store.speed.setdefault(agent.name, {})[task.name] = round(rate)
        store.save()
        print(f"{task.name}, {agent.name}: {rate:,.0f} steps/s", flush=True)


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
            rates = 100 * np.array([np.interp(steps, curve.steps, curve.success) for curve in curves])
            panel.plot(steps / 1e6, rates.mean(0), color=colour, label=agent.name)
            panel.fill_between(steps / 1e6, rates.min(0), rates.max(0), color=colour, alpha=0.15, linewidth=0)
        panel.set(title=task.name, xlabel="million agent steps", ylim=(40, 101))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("success of the last 100 games, %")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=9, loc="outside right upper")
    figure.savefig(path, dpi=80)


def main(argv: Sequence[str]) -> int:
    options = dict(word.split("=", 1) for word in argv if "=" in word)
    verbs = [word for word in argv if "=" not in word] or ["run", "speed", "table"]
    if set(verbs) - {"run", "speed", "table"} or set(options) - {"jobs", "only", "folder"}:
        print(__doc__, file=sys.stderr)
        return 2
    jobs, only = options.get("jobs", "2"), options.get("only", "")
    if not jobs.isdecimal() or int(jobs) < 1:
        print(f"error: jobs={jobs}: expected a number from 1 on", file=sys.stderr)
        return 2
    if not any(chosen(only)):
        names = "; ".join(part.name for part in (*TASKS, *AGENTS))
        print(f"error: only={only}: no agent on any task is called so; they are {names}", file=sys.stderr)
        return 2
    store, root = Store(), Path(options.get("folder", "runs/recurrences"))
    if "run" in verbs:
        run(store, root, int(jobs), only)
    if "speed" in verbs:
        measure_speed(store, root, only)
    if "table" in verbs:
        replace_table(RESULTS / "README.md", "python -m benchmarks.recurrences table", table(store))
        draw(store, RESULTS / "recurrences.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
