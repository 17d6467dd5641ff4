"""Agents that learn tasks, each run a program of its own on one core, and a file of results that goes on where it was stopped.

What is compared is a ``Study``; ``recurrences.py``, ``algorithms.py`` and ``r2d2.py`` have one each, and make tables and pictures of it.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from r2ac.persistence.writing import replace_file

RESULTS = Path(__file__).parents[1] / "docs" / "results"
LEARNED = 0.95
FIRST_BREAKOUT = (
    *("network=nature", "learner.learning_rate=0.0005", "actors.num_envs=16", "actors.unroll=20"),
    *("loss.trace_decay=1.0", "learner.target_lag=8", "learner.warmup_updates=0"),
    "network.standardise_steps=0",
)
"""What ``experiment=atari_breakout`` was until it was measured what learns more per minute (``defaults.py``): figures from before stay
comparable."""
COLD = ("learner.warmup_updates=0", "network.standardise_steps=0")
"""Of ``experiment=atari_breakout`` before its learning rate rose at the start and its pixels were standardised: most of what is stored was
measured so."""
VERBS = ("run", "speed", "table")


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    steps: int
    """After which a run ends; the length of its schedules."""
    words: tuple[str, ...]
    minutes: float | None = None
    """After which it is stopped as Ctrl-C does, where that is earlier."""
    row_steps: int = 40_960
    """Between two rows of its log."""
    speed_steps: int = 100_000
    """Of a measurement of speed."""
    agents: tuple[str, ...] = ()
    """Names of those that it is a task of; empty is all."""
    seeds: tuple[int, ...] = ()
    """Empty is the agent's."""


@dataclass(frozen=True, slots=True)
class Agent:
    name: str
    words: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    """Empty is the study's."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One run, by rows of its log."""

    task: str
    agent: str
    seed: int
    steps: list[int]
    mean_return: list[float]
    """Of the last hundred games; on tasks that are done or not, the share of those that were."""
    seconds: float
    wall: list[float] = field(default_factory=list)
    """Seconds of training at each row, where they are part of the study."""
    encoder: list[float] = field(default_factory=list)
    """The encoder's share of the gradient's norm, by rows that have an update, where that is part of it."""

    @property
    def final(self) -> float:
        """Mean over the last tenth of the run."""
        return statistics.mean(self.mean_return[-max(1, len(self.mean_return) // 10) :])

    @property
    def learned_at(self) -> int | None:
        """Steps at the first row of 95 %."""
        return next((step for step, rate in zip(self.steps, self.mean_return, strict=True) if rate >= LEARNED), None)


class Store:
    """A file of results. It is written anew after each run, whole or not at all."""

    def __init__(self, path: Path) -> None:
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


@dataclass(frozen=True, slots=True)
class Study:
    """
    Args:
        fleet: words that every run has.
        write: makes the tables and pictures of the page.
        usage: for those who call it wrongly.
    """

    name: str
    tasks: tuple[Task, ...]
    agents: tuple[Agent, ...]
    seeds: tuple[int, ...]
    fleet: tuple[str, ...]
    write: Callable[[Store], None]
    usage: str

    @property
    def data(self) -> Path:
        return RESULTS / "data" / f"{self.name}.json"

    def chosen(self, only: str) -> Iterator[tuple[Task, Agent]]:
        parts = only.split(";")
        for task in self.tasks:
            for agent in self.agents:
                of_task = not task.agents or agent.name in task.agents
                if of_task and any(part.strip() in f"{task.name}, {agent.name}" for part in parts):
                    yield task, agent

    def seeds_of(self, task: Task, agent: Agent) -> tuple[int, ...]:
        return task.seeds or agent.seeds or self.seeds

    def run(self, store: Store, root: Path, jobs: int, only: str) -> None:
        """Raises ``RuntimeError`` for a run that failed, after the others."""
        todo = [
            (task, agent, seed)
            for seed in self.seeds
            for task, agent in self.chosen(only)
            if seed in self.seeds_of(task, agent) and seed not in {curve.seed for curve in store.of(task, agent)}
        ]

        def one(job: tuple[Task, Agent, int]) -> None:
            task, agent, seed = job
            folder = root / f"{slug(task, agent)}_{seed}"
            words = (f"seed={seed}", f"total_steps={task.steps}", f"logging.interval_steps={task.row_steps}")
            rows = self.program(task, agent, folder, *words)
            known = [row for row in rows if row.get("mean_return_100") is not None]
            seconds = json.loads((folder / "summary.json").read_text())["wall_time_s"]
            returns = [round(row["mean_return_100"], 3) for row in known]
            wall = [round(row["wall_time_s"], 1) for row in known]
            steps = [row["agent_steps"] for row in known]
            encoder = encoder_shares(known)
            curve = Curve(task.name, agent.name, seed, steps, returns, round(seconds, 1), wall, encoder)
            store.add(curve)
            print(f"{task.name}, {agent.name}, seed {seed}: {curve.final:.3f}, {seconds:.0f} s", flush=True)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, todo))

    def measure_speed(self, store: Store, root: Path, only: str) -> None:
        """One agent after the other, so that none slows another; the first rows warm up."""
        for task, agent in self.chosen(only):
            folder = root / f"speed_{slug(task, agent)}_{os.getpid()}"
            steps = (f"total_steps={task.speed_steps}", f"logging.interval_steps={task.speed_steps // 5}")
            rows = self.program(task, agent, folder, *steps)
            first, last = rows[1], rows[-1]
            rate = (last["agent_steps"] - first["agent_steps"]) / (last["wall_time_s"] - first["wall_time_s"])
            store.speed.setdefault(agent.name, {})[task.name] = round(rate)
            store.save()
            print(f"{task.name}, {agent.name}: {rate:,.0f} steps/s", flush=True)

    def program(self, task: Task, agent: Agent, folder: Path, *words: str) -> list[dict[str, Any]]:
        """Trains on one core; returns the rows of the log. Raises ``RuntimeError`` for a run that failed."""
        words = (*self.fleet, f"run_dir={folder}", *task.words, *agent.words, *words)
        command = [sys.executable, "-m", "r2ac.commands.train", *words]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as process:
            try:
                _, said = process.communicate(timeout=None if task.minutes is None else 60 * task.minutes)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)}: {' '.join(said.strip().splitlines()[-1:])}")
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    def main(self, argv: Sequence[str]) -> int:
        options = dict(word.split("=", 1) for word in argv if "=" in word)
        verbs = [word for word in argv if "=" not in word] or list(VERBS)
        if set(verbs) - set(VERBS) or set(options) - {"jobs", "only", "folder"}:
            print(self.usage, file=sys.stderr)
            return 2
        jobs, only = options.get("jobs", "2"), options.get("only", "")
        if not jobs.isdecimal() or int(jobs) < 1:
            print(f"error: jobs={jobs}: expected a number from 1 on", file=sys.stderr)
            return 2
        if not any(self.chosen(only)):
            names = "; ".join(part.name for part in (*self.tasks, *self.agents))
            print(f"error: only={only}: no agent on any task is called so; they are {names}", file=sys.stderr)
            return 2
        store, root = Store(self.data), Path(options.get("folder", f"runs/{self.name}"))
        if "run" in verbs:
            self.run(store, root, int(jobs), only)
        if "speed" in verbs:
            self.measure_speed(store, root, only)
        if "table" in verbs:
            self.write(store)
        return 0


def encoder_shares(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Of every row that has an update; 0 is an encoder that is dead, or there is none."""
    norms = [(row.get("gradient_norm_stem") or 0.0, row.get("gradient_norm") or 0.0) for row in rows]
    return [round(stem / whole, 6) for stem, whole in norms if whole]


def slug(task: Task, agent: Agent) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", f"{task.name}_{agent.name}".lower()).strip("_")


def curves_by_minutes(store: Store, tasks: Sequence[Task], agents: Sequence[Agent], path: Path) -> None:
    """A picture with a panel per task; the line is the mean over seeds, the band goes from the lowest to the highest."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, len(tasks), figsize=(5.2 * len(tasks), 4.6), layout="constrained", squeeze=False)
    panels = panels[0]
    for panel, task in zip(panels, tasks, strict=True):
        for number, agent in enumerate(agents):
            if not (curves := store.of(task, agent)):
                continue
            last = statistics.mean(curve.wall[-1] for curve in curves)
            minutes = np.linspace(0, last, 60)
            returns = np.array([np.interp(minutes, curve.wall, curve.mean_return) for curve in curves])
            panel.plot(minutes / 60, returns.mean(0), color=f"C{number}", label=agent.name)
            panel.fill_between(
                minutes / 60, returns.min(0), returns.max(0), color=f"C{number}", alpha=0.15, linewidth=0
            )
        panel.set(title=task.name, xlabel="minutes of one core")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean return of the last 100 games")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=len(agents))
    figure.savefig(path, dpi=80)
