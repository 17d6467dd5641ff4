"""The real training program as a process of its own, with what it wrote so far."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from patience import patience, wait_until

TOY = (
    *("experiment=tmaze", "env.corridor=4", "fleet.num_actors=1", "actors.num_envs=4", "actors.unroll=3"),
    *("actors.num_cpus=0.5", "network.num_units=8", "network.encoder=mlp", "network.features=6"),
    *("logging.terminal=plain", "logging.tensorboard=false", "logging.interval_s=0.2"),
    *("logging.checkpoint_interval_s=0.5", "fleet.object_store_bytes=80_000_000", "total_steps=1_000_000_000"),
)


class StartedRun:
    """
    Args:
        before: words before the program, such as ``nohup``.
        stdout: where its lines go; ``None`` is the same file as its errors.
        log: that file; ``None`` is beside the run.
    """

    def __init__(
        self,
        run_dir: Path,
        *words: str,
        before: Sequence[str] = (),
        stdout: int | None = None,
        log: Path | None = None,
    ) -> None:
        self.run_dir = run_dir
        self._log = log or run_dir.with_suffix(".log")
        command = [*before, sys.executable, "-m", "r2ac.commands.train", *TOY, f"run_dir={run_dir}", *words]
        with self._log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file if stdout is None else stdout, stderr=file, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def summary(self) -> dict[str, Any]:
        path = self.run_dir / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def steps(self) -> int:
        return self.summary.get("agent_steps", 0)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]

    @property
    def checkpoint_steps(self) -> int:
        """Of the newest checkpoint; 0 without one."""
        return max((int(path.parent.name) for path in self.run_dir.glob("checkpoints/[0-9]*/manifest.json")), default=0)

    @property
    def attempt(self) -> dict[str, Any]:
        return json.loads(max((self.run_dir / "attempts").iterdir()).read_text())

    def family(self) -> list[psutil.Process]:
        """It and all that it started."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def wait_until(self, what: str, condition: Callable[[], object]) -> None:
        def met() -> object:
            ended = self.process.poll() is not None  # looked at before, so that what it did last counts
            so = condition()
            assert so or not ended, f"ended while waiting for {what}: {self.output[-3000:]}"
            return so

        wait_until(what, met, details=lambda: self.output[-3000:])

    def wait_for_steps(self, steps: int) -> None:
        self.wait_until(f"{steps} steps", lambda: self.steps >= steps)

    def end(self) -> int:
        return self.process.wait(patience(120))


@contextmanager
def started(run_dir: Path, *words: str, **options: Any) -> Iterator[StartedRun]:
    run = StartedRun(run_dir, *words, **options)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()


def gone(processes: Sequence[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=patience(30))
    return not [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
