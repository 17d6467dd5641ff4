"""What a program does, watched from outside: CPU time of all its processes, steps and games as its files tell of them."""

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.measurement import NotMeasured

MARK = "R2AC_PEER"
"""Variable of the environment that all processes of a program inherit, whoever starts them and however they detach."""
POLL_S = 2.0
SAMPLE_S = 10.0
START_S = 240.0
STALL_S = 120.0
"""Without a step; a program whose learner has died may live on."""


@dataclass(frozen=True, slots=True)
class Count:
    """Since a program began."""

    steps: int
    """Decisions of the agent, four frames each."""
    games: int
    """Whole ones, all lives of them."""
    score: float
    """Raw, of all these games together."""


@dataclass(slots=True)
class Seen:
    """A program from when it was first seen to have made steps, by samples; all but ``start`` are lists of one length."""

    start: float = 0.0
    """Seconds from its call until then."""
    wall: list[float] = field(default_factory=list)
    """Seconds."""
    cpu: list[float] = field(default_factory=list)
    """Seconds of all its processes together."""
    steps: list[int] = field(default_factory=list)
    games: list[int] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    """The sum of all games."""


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
                if key in self._others or process.status() == psutil.STATUS_ZOMBIE:
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


class Counted(Protocol):
    def now(self) -> Count: ...


class GamesOf:
    """What ``programs/games.py`` has written into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._count = Count(0, 0, 0.0)

    def now(self) -> Count:
        for path in sorted(self._folder.glob("games_*.jsonl")):
            with path.open() as file:
                file.seek(self._read.get(path, 0))
                while (line := file.readline()).endswith("\n"):
                    self._read[path] = file.tell()
                    said, count = json.loads(line), self._count
                    score = said["score"]
                    self._count = Count(
                        count.steps + said["steps"], count.games + (score is not None), count.score + (score or 0.0)
                    )
        return self._count


class RowsOf:
    """The same of ``rtrl-train``'s log in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "metrics.jsonl"
        self._read = 0
        self._count = Count(0, 0, 0.0)

    def now(self) -> Count:
        if self._file.is_file():
            with self._file.open() as file:
                file.seek(self._read)
                while (line := file.readline()).endswith("\n"):
                    self._read = file.tell()
                    row, before = json.loads(line), self._count
                    mean, new = row.get("episode_return_mean"), row["episodes"] - before.games
                    score = before.score + (mean * new if new else 0.0)
                    self._count = Count(row["agent_steps"], row["episodes"], score)
        return self._count


def watch(processes: Processes, counted: Counted, seconds: float, start_s: float = START_S) -> Seen:
    """Until so many seconds after its first steps were seen.

    Raises:
        NotMeasured: if there are none within ``start_s``, none for ``STALL_S`` later on, or the program ends by itself.
    """
    began = time.monotonic()
    while not (first := counted.now()).steps:
        time.sleep(POLL_S / 4)
        waited = time.monotonic() - began
        # At first it has no mark yet: it is still its parent's copy.
        if waited > start_s or (waited > POLL_S and not processes.alive()):
            raise NotMeasured(f"no step within {waited:.0f} s")
    origin, cpu_before = time.monotonic(), processes.cpu_s()
    seen, due = Seen(start=round(origin - began, 1)), 0.0
    moved = (0.0, first.steps)
    while True:
        now, cpu, count = time.monotonic() - origin, processes.cpu_s() - cpu_before, counted.now()
        if now >= due:
            due += SAMPLE_S
            seen.wall.append(round(now, 1))
            seen.cpu.append(round(cpu, 1))
            seen.steps.append(count.steps - first.steps)
            seen.games.append(count.games - first.games)
            seen.score.append(round(count.score - first.score, 3))
        if count.steps > moved[1]:
            moved = (now, count.steps)
        elif now - moved[0] > STALL_S:
            raise NotMeasured(f"no step from {moved[0]:.0f} to {now:.0f} s")
        if now >= seconds:
            return seen
        if not processes.alive():
            raise NotMeasured(f"it ended after {now:.0f} s")
        time.sleep(POLL_S)


def marked(mark: str) -> dict[str, str]:
    return {**os.environ, MARK: mark}
