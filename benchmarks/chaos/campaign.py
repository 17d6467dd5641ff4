"""A campaign: a storm of faults, kills of the driver, one fault a minute, and the audit of all of it."""

import json
import math
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.audit import ADDED, KEPT, LOST, MINUTE_S, REPEATED_S, UNHEARD, Findings, audit, share_kept
from benchmarks.chaos.faults import DRIVER, FAULTS, LANES, MACHINES, MESSAGES, PROCESSES, STORAGE, Fault
from benchmarks.chaos.ledger import read
from benchmarks.chaos.nodes import CORES, NoNetwork, cluster
from benchmarks.chaos.scene import TMAZE, Scene, Stuck, environment
from r2ac.persistence.checkpoint import available

NODES = ("first", "second")
PACE_S = {MESSAGES: 3.0, PROCESSES: 8.0, MACHINES: 25.0, STORAGE: 15.0, DRIVER: 40.0}
"""Between the beginnings of two faults of a lane, on average."""
STORM, DRIVERS, CALM = 0.65, 0.1, 0.25
"""Shares of a campaign's time. In the last there is a fault a minute."""
LEAST_THROUGHPUT = 0.95
ENOUGH_S = 600
"""With a fault a minute, for that to mean anything: of two faults one may have been the worst."""
MOST_GROWTH = 1.1
"""Of the driver's memory in the second half of a storm."""
MOST_REPEATED_S = 20
"""Of training, after the death of a driver: the newest checkpoint is up to five seconds old, and took a few to be written; where it is
damaged there is one before."""
SAMPLE_S = 5.0
ACTORS = len(NODES) * CORES
WAITING = 2 * ACTORS + 8
"""Contributions that may be on their way when something dies: those of each actor, and what the learner has not answered for."""


@dataclass(slots=True)
class Report:
    """What a campaign has to tell. All of it can be written as JSON."""

    minutes: float
    setting: str
    """The task."""
    faults: dict[str, int] = field(default_factory=dict)
    """How many of each kind."""
    not_here: dict[str, str] = field(default_factory=dict)
    """Kinds that this machine, or the environment, does not allow, and why."""
    counts: dict[str, int] = field(default_factory=dict)
    """Of the audit, and of the run's own last row."""
    throughput: float | None = None
    """With one fault a minute: see ``audit.share_kept``. Not measured in a short campaign."""
    memory: float | None = None
    """The driver's at the end of the storm, over that in the middle of it."""
    wrong: list[str] = field(default_factory=list)
    """Whatever was promised and did not hold."""

    @property
    def total(self) -> int:
        return sum(self.faults.values())


class Storm:
    """Faults of some lanes, each in a thread of its own.

    Args:
        report: where they are counted.
        log: is told of each, by the names of what it is told.
    """

    def __init__(self, scene: Scene, report: Report, chance: random.Random, log: Callable[..., None]) -> None:
        self._scene, self._report, self._log = scene, report, log
        self._chance = chance
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def begin(self, lanes: Sequence[str]) -> None:
        self._over.clear()
        self._threads = [
            threading.Thread(target=self._lane, args=(lane, random.Random(self._chance.random())), name=lane)
            for lane in lanes
        ]
        for thread in self._threads:
            thread.start()

    def begin_one(self, faults: Sequence[Fault], chance: random.Random) -> None:
        """One of these kinds, while the caller goes on."""
        self._threads.append(threading.Thread(target=self.one, args=(faults, chance)))
        self._threads[-1].start()

    def end(self) -> None:
        """What has begun is finished first."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _lane(self, lane: str, chance: random.Random) -> None:
        while not self._over.wait(chance.expovariate(1 / PACE_S[lane])):
            self.one([fault for fault in FAULTS if fault.lane == lane], chance)

    def one(self, faults: Sequence[Fault], chance: random.Random) -> None:
        """One of these kinds."""
        possible = [fault for fault in faults if not self._refused(fault)]
        if not possible:
            return
        (fault,) = chance.choices(possible, [fault.weight for fault in possible])
        began = time.monotonic()
        try:
            done = fault.inflict(self._scene, chance)
        except (Stuck, TimeoutError, OSError, subprocess.SubprocessError, NoNetwork) as failure:
            with self._lock:
                self._report.wrong.append(f"after {fault.name}: {failure}")
            done = "the run did not go on, or the campaign could not"
        if done is None:
            return
        with self._lock:
            self._report.faults[fault.name] = self._report.faults.get(fault.name, 0) + 1
            self._log(fault=fault.name, what=done, at=began, seconds=time.monotonic() - began)

    def _refused(self, fault: Fault) -> bool:
        reason = fault.needs(self._scene)
        with self._lock:
            if reason and fault.name not in self._report.faults:
                self._report.not_here[fault.name] = reason
            elif not reason:
                self._report.not_here.pop(fault.name, None)
        return bool(reason)


class Watch:
    """Looks at the run while it is disturbed: steps, memory, and whether the driver lives."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.memory: list[int] = []

    def until(self, end: float, then: Callable[[], None] = lambda: None) -> None:
        """``then`` is called about every ``SAMPLE_S`` seconds."""
        while (left := end - time.monotonic()) > 0:
            self._scene.look_after_driver()
            if seen := self._scene.driver_bytes:
                self.memory.append(seen)
            then()
            time.sleep(min(SAMPLE_S, max(0.0, left)))


def run(folder: Path, minutes: float, seed: int, words: Sequence[str]) -> Report:
    """A whole campaign; its books and logs stay in ``folder``, which must not exist.

    Raises:
        TimeoutError, Stuck: if the cluster or the run does not start.
    """
    folder.mkdir(parents=True)
    task = next((word for word in words if word.startswith(("env=", "experiment="))), TMAZE[0])
    report = Report(minutes, " ".join([task, *(word for word in words if word.startswith("fleet.aggregate="))]))
    chance, seconds = random.Random(seed), 60 * minutes
    faults = (folder / "faults.jsonl").open("a")

    def log(**entry: Any) -> None:
        faults.write(json.dumps(entry) + "\n")
        faults.flush()

    with faults, cluster(NODES, environment(folder), folder / "ray") as nodes:
        scene = Scene(folder, nodes, words)
        storm, watch = Storm(scene, report, chance, log), Watch(scene)
        try:
            scene.start_driver()
            scene.await_steps(ACTORS)
            _storm(storm, watch, STORM * seconds, report)
            _drivers(storm, watch, DRIVERS * seconds, scene, report)
            _calm(storm, watch, CALM * seconds, scene, report, chance)
            _end(scene, report, chance)
        except Stuck as stuck:
            report.wrong.append(str(stuck))
        finally:
            storm.end()
            scene.close()
        _examine(scene, report)
    (folder / "report.json").write_text(json.dumps([asdict(report)], indent=1))
    return report


def _storm(storm: Storm, watch: Watch, seconds: float, report: Report) -> None:
    storm.begin([lane for lane in LANES if lane != DRIVER])
    watch.until(time.monotonic() + seconds)
    storm.end()
    half = watch.memory[len(watch.memory) // 2 :]
    part = max(1, len(half) // 4)
    report.memory = statistics.median(half[-part:]) / statistics.median(half[:part])
    if report.memory > MOST_GROWTH:
        report.wrong.append(
            f"the driver's memory grew to {report.memory:.2f} of what it was in the middle of the storm"
        )


def _drivers(storm: Storm, watch: Watch, seconds: float, scene: Scene, report: Report) -> None:
    _mend(scene)
    storm.begin([DRIVER, MESSAGES])
    watch.until(time.monotonic() + seconds)
    storm.end()
    before = int(scene.row().get("agent_steps", 0))
    scene.await_steps()
    if scene.steps < before:
        report.wrong.append(f"steps went back from {before:,} to {scene.steps:,} without a fault")


def _calm(storm: Storm, watch: Watch, seconds: float, scene: Scene, report: Report, chance: random.Random) -> None:
    """One fault a minute, none of which takes the driver."""
    _mend(scene)
    ordinary = [fault for fault in FAULTS if fault.lane != DRIVER]
    began = next_at = time.monotonic()

    def disturb() -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at += MINUTE_S
            storm.begin_one(ordinary, chance)

    watch.until(began + seconds, disturb)
    storm.end()
    if seconds < ENOUGH_S:
        return
    report.throughput = share_kept(read(scene.books, "learner"), began, began + seconds)
    if report.throughput < LEAST_THROUGHPUT:
        report.wrong.append(f"with a fault a minute the run made {report.throughput:.2f} of its steps")


def _mend(scene: Scene) -> None:
    """Everything is there again, and all actors play. A node that was cut off may find out late that it was given up, and end."""
    scene.set_clock(0.0)
    for process in scene.cluster.all_processes():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                process.resume()

    def renew() -> None:
        for node in scene.cluster.nodes:
            scene.cluster.renew(node)

    renew()
    scene.await_steps(ACTORS, renew)


def _end(scene: Scene, report: Report, chance: random.Random) -> None:
    """Stopped as a user stops it, damaged, and started again: it goes on from what was good."""
    _mend(scene)
    if (status := scene.stop_driver()) != 0:
        report.wrong.append(f"the run ended with status {status}: {scene.last_words()}")
    row = scene.row()
    report.counts |= {
        name: int(row.get(name, 0))
        for name in (
            "agent_steps",
            "actor_restarts",
            "learner_restarts",
            *(f"contributions_{verdict}" for verdict in ADDED),
        )
    }
    kept = audit(scene.books).counts[KEPT]
    if kept != (counted := sum(report.counts[f"contributions_{verdict}"] for verdict in ADDED)):
        report.wrong.append(
            f"the run counts {counted:,} contributions, its learners have added {kept:,} that were kept"
        )
    good = [int(path.name) for path in available(scene.run)]
    if scene.damage_newest(is_torn=True, chance=chance) is None:
        raise Stuck("the run has one checkpoint only, and no other to go on from")
    told = len(scene.said())
    scene.start_driver()
    scene.await_steps()
    expected = f"going on at {good[-2]:,} agent steps"
    if expected not in scene.said()[told:]:
        report.wrong.append(f"with its newest checkpoint torn the run should have said {expected!r}, and did not")
    scene.stop_driver()


def _examine(scene: Scene, report: Report) -> None:
    findings: Findings = audit(scene.books)
    report.counts |= dict(findings.counts)
    report.wrong += findings.wrong
    report.wrong += [f"the driver ended by itself, {said}" for said in scene.ended_by_itself]
    deaths = sum(
        count
        for name, count in report.faults.items()
        if any(word in name for word in ("killed", "replaced", "cut", "raylet"))
    )
    allowed = WAITING * (deaths + report.counts.get("actor_restarts", 0) + report.counts.get("learner_restarts", 0) + 2)
    if (lost := findings.counts[LOST]) > allowed:
        report.wrong.append(f"{lost} contributions were lost on their way, more than {allowed}")
    if (unheard := findings.counts[UNHEARD]) > WAITING:
        report.wrong.append(
            f"{unheard} contributions were judged and unheard of at the death of a learner, more than {WAITING}"
        )
    if (repeated := findings.counts[REPEATED_S]) > MOST_REPEATED_S:
        report.wrong.append(
            f"{repeated} s of training were done again after the death of a driver, more than {MOST_REPEATED_S}"
        )
    if not math.isfinite(report.throughput or 0.0):
        report.wrong.append("the throughput is not known")
