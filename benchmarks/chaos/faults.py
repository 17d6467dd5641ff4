"""What is done to a run, by kind. Each says in a word or two what it has done, or nothing where there was nobody to do it to."""

import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from benchmarks.chaos.audited import Kind, Order
from benchmarks.chaos.scene import SILENCE_S, Scene

Inflict = Callable[[Scene, random.Random], str | None]
MESSAGES, PROCESSES, MACHINES, STORAGE, DRIVER = "messages", "processes", "machines", "storage", "driver"
LANES = (MESSAGES, PROCESSES, MACHINES, STORAGE, DRIVER)
"""In each one fault comes after the other; those of different lanes meet."""


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    lane: str
    weight: float
    """How often, beside the others of its lane."""
    inflict: Inflict
    needs: Callable[[Scene], str] = lambda scene: ""
    """Why it cannot be done here; empty if it can."""


def ordered(kind: Kind, shortest_s: float = 0.0, longest_s: float = 0.0, megabytes: int = 0) -> Inflict:
    def inflict(scene: Scene, chance: random.Random) -> str | None:
        if scene.orders_waiting:
            return None  # nobody is there to take any
        scene.order(Order(kind, chance.uniform(shortest_s, longest_s), megabytes))
        return kind

    return inflict


def killed(find: Callable[[Scene], list[psutil.Process]]) -> Inflict:
    def inflict(scene: Scene, chance: random.Random) -> str | None:
        victim = _one(find(scene), chance)
        if victim is None:
            return None
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            return "killed"
        return None

    return inflict


def stopped(find: Callable[[Scene], list[psutil.Process]], shortest_s: float, longest_s: float) -> Inflict:
    """For so long; one that was killed meanwhile stays so."""

    def inflict(scene: Scene, chance: random.Random) -> str | None:
        victim = _one(find(scene), chance)
        if victim is None:
            return None
        try:
            victim.suspend()
        except psutil.NoSuchProcess:
            return None
        time.sleep(seconds := chance.uniform(shortest_s, longest_s))
        with suppress(psutil.NoSuchProcess):
            victim.resume()
        return f"stopped for {seconds:.0f} s"

    return inflict


def _one(found: Iterable[psutil.Process], chance: random.Random) -> psutil.Process | None:
    found = list(found)
    return chance.choice(found) if found else None


def raylets(scene: Scene) -> list[psutil.Process]:
    return [raylet for node in scene.cluster.nodes if (raylet := scene.cluster.raylet(node)) is not None]


def node_killed(scene: Scene, chance: random.Random) -> str | None:
    node = chance.choice(scene.cluster.nodes)
    was_there = scene.cluster.kill(node)
    time.sleep(chance.uniform(0, 5))
    scene.cluster.renew(node)
    return "killed, and started again" if was_there else None


def raylet_killed(scene: Scene, chance: random.Random) -> str | None:
    node = chance.choice(scene.cluster.nodes)
    raylet = scene.cluster.raylet(node)
    if raylet is None:
        scene.cluster.renew(node)
        return None
    with suppress(psutil.NoSuchProcess):
        raylet.kill()
    time.sleep(chance.uniform(0, 5))
    scene.cluster.renew(node)
    return "killed, and its node started again"


def cut(shortest_s: float, longest_s: float) -> Inflict:
    """A node from the others; one that was taken for dead, and has ended, is started again."""

    def inflict(scene: Scene, chance: random.Random) -> str | None:
        node, network = chance.choice(scene.cluster.nodes), scene.cluster.network
        assert network is not None
        network.connect(node, False)
        time.sleep(seconds := chance.uniform(shortest_s, longest_s))
        network.connect(node, True)
        time.sleep(3)
        scene.cluster.renew(node)
        return f"cut off for {seconds:.0f} s"

    return inflict


def delayed(scene: Scene, chance: random.Random) -> str | None:
    """Of a fifth of a second; where the kernel knows no delay, the cable is out for half of each second."""
    node, network = chance.choice(scene.cluster.nodes), scene.cluster.network
    assert network is not None
    seconds = chance.uniform(4, 10)
    if network.delay(node, 200):
        time.sleep(seconds)
        network.delay(node, 0)
        return f"200 ms for {seconds:.0f} s"
    for _ in range(round(seconds)):
        network.connect(node, False)
        time.sleep(0.4)
        network.connect(node, True)
        time.sleep(0.6)
    return f"interrupted for {seconds:.0f} s"


def disk_filled(scene: Scene, chance: random.Random) -> str | None:
    filler = scene.fill_disk()
    time.sleep(seconds := chance.uniform(2, 12))
    filler.unlink(missing_ok=True)
    return f"full for {seconds:.0f} s"


def disk_read_only(scene: Scene, chance: random.Random) -> str | None:
    if not (scene.run / "checkpoints").is_dir():
        return None
    scene.make_read_only(True)
    time.sleep(seconds := chance.uniform(2, 12))
    scene.make_read_only(False)
    return f"read-only for {seconds:.0f} s"


def clock_turned(scene: Scene, chance: random.Random) -> str | None:
    ahead = chance.choice([-1, 1]) * 10 ** chance.uniform(0, 5)
    scene.set_clock(ahead)
    return f"{ahead:+.0f} s"


def damaged(is_torn: bool, then: Inflict) -> Inflict:
    """The newest checkpoint, just before it is needed."""

    def inflict(scene: Scene, chance: random.Random) -> str | None:
        with suppress(FileNotFoundError):  # deleted meanwhile, for a newer one
            victim = scene.damage_newest(is_torn=is_torn, chance=chance)
            if victim is not None:
                then(scene, chance)
                return f"{victim.name} of {victim.parent.name}"
        return None

    return inflict


def driver_killed(scene: Scene, chance: random.Random) -> str | None:
    del chance
    scene.kill_driver()
    return "killed, and started again"


def _no_network(scene: Scene) -> str:
    return scene.cluster.no_network


def _no_disk(scene: Scene) -> str:
    return scene.without_disk


def _no_engines(scene: Scene) -> str:
    return "" if scene.engines() else "the environment has no processes of its own"


def _no_aggregators(scene: Scene) -> str:
    return "" if scene.aggregators() else "contributions are not added up on their way"


LONG_S = SILENCE_S + 5
FAULTS = (
    Fault("gradient that is not finite", MESSAGES, 3, ordered(Kind.NOT_FINITE)),
    Fault("contribution sent twice", MESSAGES, 3, ordered(Kind.TWICE)),
    Fault("contribution seconds late", MESSAGES, 2, ordered(Kind.LATE, 0.5, 4)),
    Fault("half a gigabyte taken by an actor", MESSAGES, 1, ordered(Kind.MEMORY, 0.5, 2, 512)),
    Fault("actor killed", PROCESSES, 3, killed(Scene.actors)),
    Fault("actor stopped for a while", PROCESSES, 4, stopped(Scene.actors, 0.5, 4)),
    Fault("actor stopped until it is replaced", PROCESSES, 0.5, stopped(Scene.actors, LONG_S, LONG_S)),
    Fault("learner killed", PROCESSES, 1, killed(Scene.learners)),
    Fault("learner stopped for a while", PROCESSES, 2, stopped(Scene.learners, 0.5, 4)),
    Fault("learner stopped until it is replaced", PROCESSES, 0.3, stopped(Scene.learners, LONG_S, LONG_S)),
    Fault("aggregator killed", PROCESSES, 1, killed(Scene.aggregators), _no_aggregators),
    Fault("aggregator stopped for a while", PROCESSES, 2, stopped(Scene.aggregators, 0.5, 4), _no_aggregators),
    Fault(
        "aggregator stopped until it is replaced",
        PROCESSES,
        0.3,
        stopped(Scene.aggregators, LONG_S, LONG_S),
        _no_aggregators,
    ),
    Fault("engine killed", PROCESSES, 3, killed(Scene.engines), _no_engines),
    Fault("engine stopped for a while", PROCESSES, 2, stopped(Scene.engines, 0.5, 4), _no_engines),
    Fault("raylet killed", MACHINES, 1, raylet_killed),
    Fault("raylet stopped for a while", MACHINES, 2, stopped(raylets, 0.5, 3)),
    Fault("node killed", MACHINES, 1, node_killed),
    Fault("node cut off for a while", MACHINES, 3, cut(0.5, 3), _no_network),
    Fault("node cut off until it is given up", MACHINES, 0.7, cut(20, 25), _no_network),
    Fault("packets delayed or lost", MACHINES, 2, delayed, _no_network),
    Fault("disk full", STORAGE, 2, disk_filled, _no_disk),
    Fault("checkpoints read-only", STORAGE, 2, disk_read_only, _no_disk),
    Fault("clock turned", STORAGE, 3, clock_turned),
    Fault("newest checkpoint torn, learner killed", STORAGE, 1, damaged(True, killed(Scene.learners))),
    Fault("bit flipped in the newest checkpoint, learner killed", STORAGE, 1, damaged(False, killed(Scene.learners))),
    Fault("driver killed", DRIVER, 2, driver_killed),
    Fault("newest checkpoint torn, driver killed", DRIVER, 1, damaged(True, driver_killed)),
    Fault("bit flipped in the newest checkpoint, driver killed", DRIVER, 1, damaged(False, driver_killed)),
)
