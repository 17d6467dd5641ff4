"""What a run costs before its first step: CPU seconds of all its processes, of ``make train`` as it is."""

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.measurement import Result, informs
from r2ac.training.loop import available_cores

ROUNDS = 5
POLL_S = 0.02


def run(seconds: float) -> list[Result]:
    """As often as the time allows, at least once, at most five times."""
    costs: list[float] = []
    started = time.monotonic()
    while not costs or (len(costs) < ROUNDS and time.monotonic() - started < 6 * seconds):
        costs.append(_cpu_seconds())
    setting = f"Breakout with the default options, {available_cores()} actors, until the first step"
    return [informs("startup/cpu_seconds", statistics.median(costs), "CPU seconds", setting)]


def _cpu_seconds() -> float:
    """The first checkpoint is written when everything stands and nothing has stepped yet."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "r2ac.commands.train", f"run_dir={folder}/run", "logging.terminal=none"]
        spent: dict[psutil.Process, float] = {}
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not list(Path(folder, "run", "checkpoints").glob("[0-9]*")):
                _look(psutil.Process(process.pid), spent)
                time.sleep(POLL_S)
            if process.returncode is None:
                _look(psutil.Process(process.pid), spent)
            process.send_signal(signal.SIGTERM)
        if process.returncode:
            raise RuntimeError(f"the training ended with exit status {process.returncode}: {' '.join(command)}")
    return sum(spent.values())


def _look(root: psutil.Process, spent: dict[psutil.Process, float]) -> None:
    """Notes what each process of the tree has spent by now: one that ends keeps its last value."""
    for member in [root, *root.children(recursive=True)]:
        try:
            times = member.cpu_times()
        except psutil.Error:
            continue
        spent[member] = times.user + times.system
