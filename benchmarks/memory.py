"""Memory of a training run on Ray: size of an actor, bounded object store, no growth."""

import statistics
import time
from contextlib import closing
from functools import partial

from actors.fleet import FleetState
from actors.ray_fleet import RayFleet, object_store_bytes
from benchmarks.measurement import Result, at_most, informs
from conf.load import load_train
from learner.algorithms import R2AC
from learner.ray_learner import RayLearner
from learner.schedules import asynchronous
from r2ac.cluster.session import ray_cluster
from r2ac.training.build import available_cores, describe_environment, initial_weights
from r2ac.training.sizing import sized


def run(seconds: float) -> list[Result]:
    """Six times as long as the other measurements: a minute and a half by default, ten with ``seconds=100``."""
    duration = 6 * seconds
    actors = available_cores()
    words = ["experiment=atari_breakout", "logging=quiet", f"fleet.num_actors={actors}", "fleet.max_restarts=0"]
    config = sized(load_train(words), actors)
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    algorithm = R2AC()
    plan = algorithm.plan(config, spec, layout)
    state = plan.first_state(vector)
    stores: list[float] = []
    sizes: list[int] = []
    with ray_cluster(config, actors):
        fleet = RayFleet(config, actors, FleetState(), print, partial(algorithm.worker, config))
        with (
            closing(fleet),
            closing(
                RayLearner(plan, state, newest_state=lambda: state, limits=config.fleet, announce=print)
            ) as learner,
        ):
            started = time.perf_counter()
            for progress in asynchronous(fleet, learner, in_flight=1):
                sizes += [receipt.statistics.rss_bytes for receipt in progress.receipts]
                if (used := object_store_bytes()) is not None:
                    stores.append(used)
                if time.perf_counter() - started > duration:
                    break
    third = len(sizes) // 3
    growth = statistics.median(sizes[2 * third :]) / statistics.median(sizes[third : 2 * third]) - 1
    setting = f"Breakout, nature stem, N=256, T=20, {actors} actors of B=16, {duration:.0f} s"
    return [
        informs("memory/actor_rss_mb", statistics.median(sizes[2 * third :]) / 1e6, "MB", setting),
        at_most(
            "memory/object_store_per_actor", max(stores) / (layout.size * 4) / actors, 10.0, "contributions", setting
        ),
        at_most("memory/actor_growth", growth, 0.02, "share, last third over middle third", setting),
    ]
