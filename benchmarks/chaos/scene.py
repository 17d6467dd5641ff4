"""The run that the faults meet: its cluster, its program, its disk and its clock, and what can be seen of it from outside."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.audited import Order, give
from benchmarks.chaos.nodes import Cluster
from r2ac.persistence.checkpoint import available

DISK_MB = 256
SILENCE_S = 15.0
"""After which a process of the run counts as hung."""
WORDS = (
    *("actors.num_cpus=1", "algorithm=benchmarks.chaos.audited:Audited", "fleet.num_actors=auto", "fleet.min_actors=1"),
    *("fleet.placement_timeout_s=300", "fleet.max_restarts=1_000_000", f"fleet.unroll_timeout_s={SILENCE_S:g}"),
    *(f"fleet.learner_timeout_s={SILENCE_S:g}", "total_steps=1_000_000_000_000", "logging.terminal=plain"),
    *(
        "logging.tensorboard=false",
        "logging.interval_s=1",
        "logging.checkpoint_interval_s=5",
        "logging.keep_checkpoints=4",
    ),
)
TMAZE = ("experiment=tmaze", "actors.num_envs=32", "actors.unroll=50")
"""Large unrolls: thirty contributions a second on two cores, and not two hundred, are written down."""
GOES_ON_S = 120.0
"""In which a run that was disturbed makes steps again."""


class Stuck(RuntimeError):
    """The run does not go on. One line."""


class Scene:
    """
    Args:
        folder: of everything that is left of the campaign.
        cluster: stands.
        words: of the run, after ours; without a task of its own it is the T-maze.
    """

    def __init__(self, folder: Path, cluster: Cluster, words: Sequence[str]) -> None:
        self.folder, self.cluster = folder, cluster
        self.books = folder / "books"
        self.disk = folder / "disk"
        self.run = self.disk / "run"
        self._words = (*with_a_task(words), *WORDS, f"algorithm.options.folder={self.books}")
        self._driver: subprocess.Popen[bytes] | None = None
        self._driver_lock = threading.RLock()
        self._orders = 0
        self.ended_by_itself: list[str] = []
        """What a driver said last that nobody had killed."""
        self.without_disk = self._mount()

    @property
    def _log(self) -> Path:
        return self.folder / "driver.log"

    def _mount(self) -> str:
        """A disk of its own; if there cannot be one, why."""
        self.disk.mkdir(parents=True)
        if shutil.which("mount") is None:
            return "there is no mount"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "r2ac-chaos", str(self.disk)],
            capture_output=True,
            text=True,
        )
        return done.stderr.strip() if done.returncode else ""

    # What is done to it

    def order(self, order: Order) -> None:
        self._orders += 1
        give(self.books, self._orders, order)

    @property
    def orders_waiting(self) -> int:
        place = self.books / "orders"
        return len(list(place.glob("*.json"))) if place.is_dir() else 0

    def start_driver(self) -> None:
        with self._driver_lock, self._log.open("ab") as log:
            command = [sys.executable, "-m", "r2ac.commands.train", *self._words]
            command += [f"fleet.address={self.cluster.address}", f"run_dir={self.run}"]
            self._driver = subprocess.Popen(
                command, env=self.cluster.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill_driver(self) -> None:
        """And starts it again, as whatever looks after jobs does."""
        with self._driver_lock:
            if self._driver is not None:
                self._driver.kill()
                self._driver.wait()
            self.start_driver()
        self.await_steps()

    def look_after_driver(self) -> None:
        """One that has ended by itself is a finding, and is started again. Raises ``Stuck`` if it has not even begun."""
        with self._driver_lock:
            if self._driver is not None and self._driver.poll() is not None:
                if not self.row():
                    raise Stuck(f"the run does not begin: {self.last_words()}")
                self.ended_by_itself.append(f"status {self._driver.returncode}: {self.last_words()}")
                self.start_driver()

    def stop_driver(self) -> int:
        """As a user does; its exit status."""
        with self._driver_lock:
            assert self._driver is not None
            self._driver.send_signal(signal.SIGTERM)
            try:
                return self._driver.wait(GOES_ON_S)
            except subprocess.TimeoutExpired:
                self._driver.kill()
                raise Stuck(f"the run did not end: {self.last_words()}") from None
            finally:
                self._driver = None

    def set_clock(self, ahead_s: float) -> None:
        with (self.folder / "clock").open("r+b") as file:
            file.write(struct.pack("d", ahead_s))

    def fill_disk(self) -> Path:
        """Until there is no room for anything; the file that takes it."""
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
        return filler

    def make_read_only(self, is_read_only: bool) -> None:
        """What is open stays open, as on a disk with an error."""
        checkpoints = str(self.run / "checkpoints")
        if is_read_only:
            subprocess.run(["mount", "--bind", checkpoints, checkpoints], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", checkpoints], check=True, capture_output=True)
        else:
            subprocess.run(["umount", "-l", checkpoints], check=True, capture_output=True)

    def damage_newest(self, *, is_torn: bool, chance: random.Random) -> Path | None:
        """Cuts a file of the newest checkpoint short, or turns one bit in it; ``None`` if there is but one checkpoint."""
        found = available(self.run)
        if len(found) < 2:
            return None
        victim = chance.choice(sorted(path for path in found[-1].iterdir() if path.stat().st_size))
        content = bytearray(victim.read_bytes())
        if is_torn:
            content = content[: chance.randrange(len(content))]
        else:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        victim.write_bytes(content)
        return victim

    # What is seen of it

    def row(self) -> dict[str, Any]:
        try:
            return json.loads((self.run / "summary.json").read_text())
        except (OSError, ValueError):
            return {}

    @property
    def steps(self) -> int:
        return int(self.row().get("agent_steps", 0))

    def last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.is_file() else []
        return lines[-1] if lines else "nothing was said"

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def await_steps(self, actors: int = 0, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Until a new row has other steps, and so many actors. Raises ``Stuck`` if none comes."""
        before, deadline = self.row(), time.monotonic() + GOES_ON_S
        while True:
            row = self.row()
            if row.get("agent_steps") not in (None, before.get("agent_steps")) and row.get("actors_alive", 0) >= actors:
                return
            if time.monotonic() > deadline:
                raise Stuck(f"no steps in {GOES_ON_S:g} s: {self.last_words()}")
            self.look_after_driver()
            meanwhile()
            time.sleep(0.2)

    def actors(self) -> list[psutil.Process]:
        return self.cluster.processes("ActorProcess")

    def learners(self) -> list[psutil.Process]:
        return self.cluster.processes("LearnerProcess")

    def aggregators(self) -> list[psutil.Process]:
        return self.cluster.processes("AggregatorProcess")

    def engines(self) -> list[psutil.Process]:
        """Environments that are processes of their own."""
        found = []
        for actor in self.actors():
            with suppress(psutil.Error):
                found += actor.children(recursive=True)
        return found

    @property
    def driver_bytes(self) -> int:
        """Resident memory."""
        with self._driver_lock, suppress(psutil.Error):
            if self._driver is not None:
                return psutil.Process(self._driver.pid).memory_info().rss
        return 0

    def close(self) -> None:
        with self._driver_lock:
            if self._driver is not None:
                self._driver.kill()
                self._driver.wait()
        if not self.without_disk:
            subprocess.run(["umount", "-l", str(self.disk)], capture_output=True)


def with_a_task(words: Sequence[str]) -> Sequence[str]:
    """The T-maze where they name none."""
    return words if any(word.startswith(("env=", "experiment=")) for word in words) else (*TMAZE, *words)


def environment(folder: Path) -> dict[str, str]:
    """Of all processes of a campaign."""
    clock = folder / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    here = Path(__file__).parent
    path = [str(here / "clock"), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    ours = {
        "CHAOS_CLOCK": str(clock),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | ours
