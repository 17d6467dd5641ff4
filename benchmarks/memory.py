"""Memory of a training run on Ray: size of its processes, bounded object store, no growth; of one that ships gradients, of one that ships
trajectories, and of one that keeps them."""

import statistics
import time
from dataclasses import dataclass, field

import psutil

from actors.ray_fleet import object_store_bytes
from benchmarks.learning import FIRST_BREAKOUT
from benchmarks.measurement import Result, at_least, at_most, informs
from benchmarks.training import training
from conf.load import load_train
from conf.schema import TrainConfig
from learner.receipts import Receipt
from learner.schedules import asynchronous
from r2ac.cluster.session import ray_cluster
from r2ac.training.build import available_cores
from r2ac.training.sizing import sized

GRADIENTS = ("experiment=atari_breakout", *FIRST_BREAKOUT, "logging=quiet", "fleet.max_restarts=0")
TRAJECTORIES = (*GRADIENTS, "algorithm=impala", "rule=tbptt", "network.features=32", "network.num_units=32")
"""So few weights that it is trajectories what the store holds. The learner goes forward and backward for all actors, which go forward
only: they would be far ahead of it if nothing held them."""
REPLAY_BYTES = 30_000_000
REPLAY = (
    *("experiment=atari_breakout_r2d2_small", "logging=quiet", "fleet.max_restarts=0", "network.features=32"),
    *("network.num_units=32", "network.head_sizes=[]", f"algorithm.options.replay_bytes={REPLAY_BYTES}"),
    *("algorithm.options.min_sequences=100", "algorithm.options.replay_ratio=4"),
)
"""A replay that is full long before the second third of the run, and a learner that the actors wait for."""
FEW = 2
"""Contributions, in all: the weights on their way to the actors."""
GROWTH = 0.05
"""Of what a process has for itself, from the second third of a run to the last: an allocator takes a few MB more once in a while, and
what grew with the contributions, of several MB each, would be far beyond it."""
FREED_AFTER_S = 1.5
"""Ray collects what nobody refers to any more for a second before it frees it, a little longer on a loaded machine."""


@dataclass(slots=True)
class Watched:
    """A run whose memory was looked at, whenever its schedule let us."""

    seconds: float
    contributions: int = 0
    contribution_bytes: float = 0.0
    """Mean of those that were shipped."""
    learner_busy_share: float = 0.0
    stores: list[float] = field(default_factory=list)
    """Bytes in the object store."""
    actors_rss: list[int] = field(default_factory=list)
    """Resident bytes of the actor of each contribution, pages of the object store among them."""
    actors: list[int] = field(default_factory=list)
    """Bytes that all actors together have for themselves."""
    learner: list[int] = field(default_factory=list)
    """Bytes that the learner has for itself."""


def run(seconds: float) -> list[Result]:
    """Six times as long as the other measurements, three times: four and a half minutes by default."""
    return [*of_gradients(seconds), *of_trajectories(seconds), *of_replay(seconds)]


def of_gradients(seconds: float) -> list[Result]:
    """A minute and a half by default, ten with ``seconds=100``."""
    config = configured(GRADIENTS)
    watched = watch(config, 6 * seconds)
    setting = f"Breakout, nature stem, N=256, T=20, {_size(config)}, {watched.seconds:.0f} s"
    return _results("memory/", watched, config, 10.0, setting)


def of_trajectories(seconds: float) -> list[Result]:
    """As long."""
    config = configured(TRAJECTORIES)
    return judged_trajectories(config, watch(config, 6 * seconds))


def of_replay(seconds: float) -> list[Result]:
    """As long."""
    config = configured(REPLAY)
    setting = f"algorithm=r2d2, a replay of {REPLAY_BYTES / 1e6:.0f} MB, Breakout, small nature stem, N=32, T=10"
    return _held_back("memory/replay_", setting, config, watch(config, 6 * seconds))


def judged_trajectories(config: TrainConfig, watched: Watched) -> list[Result]:
    return _held_back(
        "memory/trajectories_", "algorithm=impala, Breakout, small nature stem, N=32, T=20", config, watched
    )


def _held_back(name: str, setting: str, config: TrainConfig, watched: Watched) -> list[Result]:
    """Of each actor at most one waits at the learner when one more is sent there (``schedules.WAITING`` lets fewer), and ``in_flight`` are
    under way, whatever their speeds."""
    setting = f"{setting}, {_size(config)}, {watched.seconds:.0f} s"
    few = FEW + FREED_AFTER_S * watched.contributions / watched.seconds
    limit = 2 + config.fleet.in_flight + few / _num_actors(config)
    return [
        informs(f"{name}size_mb", watched.contribution_bytes / 1e6, "MB", setting),
        at_least(f"{name}learner_busy", watched.learner_busy_share, 0.6, "share", setting),
        *_results(name, watched, config, limit, setting),
        at_most(
            f"{name}learner_growth", _growth(watched.learner), GROWTH, "share, last third over middle third", setting
        ),
    ]


def configured(words: tuple[str, ...]) -> TrainConfig:
    actors = available_cores()
    return sized(load_train([*words, f"fleet.num_actors={actors}"]), actors)


def watch(config: TrainConfig, seconds: float) -> Watched:
    """Trains for so long."""
    watched = Watched(seconds)
    receipts: list[Receipt] = []
    with ray_cluster(config, _num_actors(config)), training(config) as (fleet, learner):
        actors, learners = _processes("ActorProcess"), _processes("LearnerProcess")
        started = time.perf_counter()
        for progress in asynchronous(fleet, learner, config.fleet.in_flight):
            receipts += progress.receipts
            watched.actors.append(_private_bytes(actors))
            watched.learner.append(_private_bytes(learners))
            if (used := object_store_bytes()) is not None:
                watched.stores.append(used)
            if time.perf_counter() - started > seconds:
                break
    watched.actors_rss = [receipt.statistics.rss_bytes for receipt in receipts]
    watched.contributions = len(receipts)
    watched.contribution_bytes = receipts[-1].counters.wire_bytes / len(receipts)
    watched.learner_busy_share = sum(receipt.busy_s for receipt in receipts) / seconds
    return watched


def _processes(name: str) -> list[psutil.Process]:
    processes = psutil.Process().children(recursive=True)
    return [process for process in processes if "".join(process.cmdline()[:1]).startswith(f"ray::{name}")]


def _private_bytes(processes: list[psutil.Process]) -> int:
    """Without what they share: libraries, and as much of the object store as they have read so far."""
    memory = [process.memory_info() for process in processes]
    return sum(one.rss - one.shared for one in memory)


def _results(name: str, watched: Watched, config: TrainConfig, limit: float, setting: str) -> list[Result]:
    rss = statistics.median(watched.actors_rss[len(watched.actors_rss) // 2 :])
    per_actor = max(watched.stores) / watched.contribution_bytes / _num_actors(config)
    return [
        informs(f"{name}actor_rss_mb", rss / 1e6, "MB", setting),
        at_most(f"{name}object_store_per_actor", per_actor, limit, "contributions", setting),
        at_most(f"{name}actor_growth", _growth(watched.actors), GROWTH, "share, last third over middle third", setting),
    ]


def _growth(sizes: list[int]) -> float:
    third = len(sizes) // 3
    return statistics.fmean(sizes[2 * third :]) / statistics.fmean(sizes[third : 2 * third]) - 1


def _num_actors(config: TrainConfig) -> int:
    assert config.fleet.num_actors is not None, "of a sized configuration"
    return config.fleet.num_actors


def _size(config: TrainConfig) -> str:
    return f"{_num_actors(config)} actors of B={config.actors.streams}"
