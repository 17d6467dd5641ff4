"""What a program does, watched from outside: CPU time of all its processes, steps and games as its files tell of them."""

import json
import os
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

GAMES = 100
MARK = "R2AC_PEER"
"""Variable of the environment that all processes of a program inherit, whoever starts them and however they detach."""
POLL_S = 2.0


@dataclass(slots=True)
class Seen:
    """A program from its first step on, by samples."""

    wall: list[float] = field(default_factory=list)
    """Seconds."""
    cpu: list[float] = field(default_factory=list)
    """Seconds of all its processes together."""
    steps: list[int] = field(default_factory=list)
    """Decisions of the agent."""
    mean_return: list[float | None] = field(default_factory=list)
    """Of the last hundred games; none before the first has ended."""


class Processes:
    """All that carry a mark. Those that have ended count with what they had used when they were last seen."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._used: dict[tuple[int, float], float] = {}
        self._others: set[tuple[int, float]] = set()

    def alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                key = (process.pid, process.create_time())
                if key in self._others:
                    continue
                if process.environ().get(MARK) == self._mark:
                    found.append(process)
                elif time.time() - key[1] > 5 * POLL_S:  # a fork that becomes another program has its parent's at first
                    self._others.add(key)
        return found

    def cpu_s(self) -> float:
        for process in self.alive():
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._used[(process.pid, process.create_time())] = times.user + times.system
        return sum(self._used.values())

    def end(self, patience_s: float = 10.0) -> None:
        """Asks, waits, and insists."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            living = self.alive()
            for process in living:
                with suppress(psutil.Error):
                    process.send_signal(sent)
            psutil.wait_procs(living, timeout=patience_s)


class Games:
    """Steps and scores of ``programs/games.py``'s files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._last: deque[float] = deque(maxlen=GAMES)
        self._steps = 0

    def now(self) -> tuple[int, float | None]:
        """Steps so far, and the mean return."""
        for path in sorted(self._folder.glob("games_*.jsonl")):
            with path.open() as file:
                file.seek(self._read.get(path, 0))
                while (line := file.readline()).endswith("\n"):
                    self._read[path] = file.tell()
                    said = json.loads(line)
                    self._steps += said["steps"]
                    self._last += [] if said["score"] is None else [said["score"]]
        return self._steps, sum(self._last) / len(self._last) if self._last else None


class Rows:
    """The same of ``rtrl-train``'s log."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "summary.json"

    def now(self) -> tuple[int, float | None]:
        try:
            row: dict[str, Any] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return 0, None
        return row["agent_steps"], row["mean_return_100"]


def watch(processes: Processes, games: Games | Rows, seconds: float, start_s: float = 180.0) -> Seen:
    """Until so many seconds after the first step.

    Raises:
        RuntimeError: if there is none within ``start_s``, or the program ends by itself.
    """
    seen = Seen()
    started = time.monotonic()
    origin: tuple[float, float, int] | None = None
    while True:
        time.sleep(POLL_S)
        now, cpu, (steps, mean) = time.monotonic(), processes.cpu_s(), games.now()
        if origin is None:
            if steps:
                origin = (now, cpu, steps)
            elif now - started > start_s or not processes.alive():
                raise RuntimeError(f"no step within {now - started:.0f} s")
            continue
        seen.wall.append(round(now - origin[0], 1))
        seen.cpu.append(round(cpu - origin[1], 1))
        seen.steps.append(steps - origin[2])
        seen.mean_return.append(None if mean is None else round(mean, 3))
        if now - origin[0] >= seconds:
            return seen
        if not processes.alive():
            raise RuntimeError(f"it ended after {now - origin[0]:.0f} s")


def marked(mark: str) -> dict[str, str]:
    return {**os.environ, MARK: mark}
