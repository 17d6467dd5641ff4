"""The jobs of a sweep on this machine: so many processes at a time, each the ordinary training program with its own log."""

import json
import subprocess
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from r2ac.commands.error_line import print_error
from r2ac.commands.stop_signals import StopSignals
from r2ac.jobs import local
from r2ac.jobs.job import Job

POLL_S = 0.2
ENDED_BY_SIGNAL = (-2, -15, 130)
"""Exit status of a training that was stopped before it had anything to save."""
SECONDS_TO_END = 10.0


@dataclass(frozen=True, slots=True)
class LocalJob:
    """A job, how far it goes, and where its output lies."""

    job: Job
    label: str
    total_steps: int
    folder: Path
    until_s: float | None = None
    """Seconds of training after which it is stopped, to be gone on with or not."""

    @property
    def log(self) -> Path:
        return self.folder / local.LOG

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            return subprocess.Popen(local.command(self.job), stdout=output, stderr=subprocess.STDOUT)

    def newest(self, metric: str) -> float | None:
        """``None`` if nothing is logged yet, or no game has ended."""
        try:
            return float(json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))[metric])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def steps(self) -> float:
        return self.newest("agent_steps") or 0.0

    @property
    def has_trained(self) -> bool:
        """For as long as it should."""
        return self.until_s is not None and (self.newest("wall_time_s") or 0.0) >= self.until_s


class LocalSweep:
    """Runs jobs until all are done, whatever becomes of one of them, or until a signal asks to stop."""

    def __init__(
        self, jobs: Iterable[LocalJob], at_once: int, console: Console, stop: StopSignals | None = None
    ) -> None:
        self.stop = StopSignals() if stop is None else stop
        self._waiting = deque(jobs)
        self._number = len(self._waiting)
        self._at_once = at_once
        self._console = console
        self._running: dict[TaskID, tuple[LocalJob, subprocess.Popen[bytes]]] = {}
        self._failed: list[tuple[LocalJob, int]] = []
        self._told: set[TaskID] = set()
        """Those that have trained for long enough, and are about to stop."""
        self._finished = 0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def run(self) -> int:
        """Exit status: 0 if all are done or were stopped cleanly, 1 if any failed, which is said once for each."""
        stop = self.stop
        stop.begin()
        asked = False
        try:
            with self._progress:
                whole = self._progress.add_task("jobs", total=self._number)
                while self._running or (self._waiting and not stop.requested):
                    while self._waiting and len(self._running) < self._at_once and not stop.requested:
                        self._start(self._waiting.popleft())
                    if stop.requested and not asked:
                        asked = True
                        for _, process in self._running.values():
                            process.terminate()
                    self._look(asked)
                    self._progress.update(whole, completed=self._finished + len(self._failed))
                    time.sleep(POLL_S)
        finally:
            self._end_all()
        for job, status in self._failed:
            print_error(f"job {job.label} failed with exit status {status}; its log: {job.log}")
        left = self._number - self._finished - len(self._failed)
        self._say(
            f"{self._finished} of {self._number} jobs finished"
            + (f", {len(self._failed)} failed" if self._failed else "")
            + (f", {left} left: the same command goes on with them" if left else "")
        )
        return 1 if self._failed else 0

    def _start(self, job: LocalJob) -> None:
        process = job.start()
        self._running[self._progress.add_task(job.label, total=job.total_steps)] = job, process
        self._say(f"started {job.label}; log: {job.log}")

    def _look(self, stopping: bool) -> None:
        for task, (job, process) in list(self._running.items()):
            status = process.poll()
            if status is None:
                self._progress.update(task, completed=job.steps)
                if job.has_trained and task not in self._told:
                    self._told.add(task)
                    process.terminate()
                continue
            del self._running[task]
            self._progress.remove_task(task)
            if stopping and not job.has_trained and status in (0, *ENDED_BY_SIGNAL):
                self._say(f"stopped {job.label} at {job.steps:,.0f} steps")
            elif status:
                self._failed.append((job, status))
                self._say(f"failed {job.label} with exit status {status}")
            else:
                self._finished += 1
                mean = job.newest("mean_return_100")
                shown = "" if mean is None else f", return (last 100 games) {mean:.3g}"
                self._say(f"finished {job.label}: {job.steps:,.0f} steps{shown}")

    def _end_all(self) -> None:
        """Of what is still running where this program cannot go on: after Ctrl-C pressed twice, or an error of its own."""
        for _, process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + SECONDS_TO_END
        for _, process in self._running.values():
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
