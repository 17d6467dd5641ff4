"""What actors ship: gradients, or trajectories that the learner differentiates, without and with their sensitivities. Side by side in one
run, at one, two and four actors; and the length of unroll from which gradients are the smaller message.
"""

import time
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch

from benchmarks.measurement import Result, informs
from benchmarks.training import training
from conf.load import load_train
from conf.schema import TrainConfig
from envs.actions import Discrete
from envs.base import EnvSpec
from learner.algorithms import IMPALA, R2AC
from learner.receipts import Receipt
from learner.schedules import asynchronous
from r2ac.cluster.session import ray_cluster
from r2ac.training.build import available_cores, initial_weights
from r2ac.training.sizing import sized

SHIPMENTS = {
    "gradients": ("algorithm=r2ac", "rule=segment"),
    "trajectories": ("algorithm=impala", "rule=tbptt"),
    "trajectories_s0": ("algorithm=impala", "rule=segment", "algorithm.options.ship=trajectories_s0"),
}
ACTORS = (1, 2, 4)
RUN = ("experiment=atari_breakout", "logging=quiet", "fleet.max_restarts=0", "actors.num_envs=16", "actors.unroll=20")
ATARI = EnvSpec("atari", (4, 84, 84), "uint8", "CHW", Discrete(18))
DMLAB = EnvSpec("dmlab", (72, 96, 3), "uint8", "HWC", Discrete(9))
SHAPES = {
    "atari_nature": (ATARI, "nature", 256),
    "atari_impala": (ATARI, "impala", 256),
    "dmlab_impala": (DMLAB, "impala", 512),
}
"""Whose break-even is worked out."""


@dataclass(slots=True)
class Seen:
    """Of a run, after its warm-up."""

    receipts: list[Receipt] = field(default_factory=list)
    seconds: float = 0.0


def run(seconds: float) -> list[Result]:
    places = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    runs = list(product(places, ACTORS, SHIPMENTS))
    configs = [_config(*run) for run in runs]
    with ray_cluster(configs[-1], max(ACTORS), 2**24):
        results = [
            result
            for run, config in zip(runs, configs, strict=True)
            for result in _figures(*run, config, _watched(config, seconds))
        ]
    return [*results, *(_break_even(shape, *network) for shape, network in SHAPES.items())]


def _config(place: str, num_actors: int, shipment: str) -> TrainConfig:
    device = ("learner.device=cuda", "learner.num_gpus=1") if place == "cuda" else ()
    share = min(1.0, available_cores() / num_actors)
    words = (*RUN, *SHIPMENTS[shipment], *device, f"fleet.num_actors={num_actors}", f"actors.num_cpus={share:g}")
    return sized(load_train(list(words)), available_cores())


def _figures(place: str, num_actors: int, shipment: str, config: TrainConfig, seen: Seen) -> list[Result]:
    steps = sum(receipt.header.num_steps for receipt in seen.receipts)
    wire = seen.receipts[-1].counters.wire_bytes - seen.receipts[0].counters.wire_bytes
    lags = [receipt.lag for receipt in seen.receipts]
    sizes = f"T={config.actors.unroll}, B={config.actors.streams}, N={config.network.num_units}"
    setting = f"Breakout, nature stem, eLSTM, {sizes}, {available_cores()} cores, learner on {place}"
    figures = {
        "bytes_per_step": (wire / sum(receipt.header.num_steps for receipt in seen.receipts[1:]), "bytes"),
        "steps_per_second": (steps / seen.seconds, "steps/s"),
        "learner_busy": (sum(receipt.busy_s for receipt in seen.receipts) / seen.seconds, "share"),
        "lag_p50": (float(np.percentile(lags, 50)), "versions"),
        "lag_p95": (float(np.percentile(lags, 95)), "versions"),
        **_importance(seen.receipts),
    }
    at = "" if place == "cpu" else f"{place}_"
    return [
        informs(f"ship/{at}{shipment}_{num_actors}_{name}", value, unit, setting)
        for name, (value, unit) in figures.items()
    ]


def _importance(receipts: list[Receipt]) -> dict[str, tuple[float, str]]:
    known = [receipt for receipt in receipts if receipt.statistics.importance_sum is not None]
    if not known:  # gradients are of the weights that acted
        return {}
    steps = sum(receipt.header.num_steps for receipt in known)
    ratios = sum(receipt.statistics.importance_sum or 0.0 for receipt in known)
    clipped = sum(receipt.statistics.importance_clipped for receipt in known)
    return {"rho_mean": (ratios / steps, ""), "rho_clipped": (clipped / steps, "share")}


def _watched(config: TrainConfig, seconds: float) -> Seen:
    num_actors = config.fleet.num_actors
    assert num_actors is not None
    warm_up, received, seen, started = 4 * num_actors, 0, Seen(), 0.0
    with training(config) as (fleet, learner):
        for progress in asynchronous(fleet, learner, config.fleet.in_flight):
            received += len(progress.receipts)
            if received <= warm_up:
                started = time.perf_counter()
                continue
            seen.receipts += progress.receipts
            seen.seconds = time.perf_counter() - started
            if seen.seconds >= seconds and len(seen.receipts) > 2 * num_actors:
                break
    return seen


def _break_even(shape: str, spec: EnvSpec, stem: str, num_units: int) -> Result:
    """Steps of an unroll, over all streams, from which a trajectory without sensitivities is larger than a gradient."""
    words = [f"network={stem}", f"network.num_units={num_units}", "actors.unroll=50", "fleet.num_actors=1"]
    config = sized(load_train(["rule=tbptt", "algorithm=impala", *words]), 1)
    layout, _ = initial_weights(config, spec)
    steps = config.actors.streams * config.actors.unroll
    of_a_step = IMPALA().contribution_bytes(config, spec, layout) / steps
    gradient = R2AC().contribution_bytes(config, spec, layout)
    return informs(
        f"ship/break_even_{shape}",
        gradient / of_a_step,
        "steps",
        f"{stem} stem, eLSTM N={num_units}, {spec.name}, T=50",
    )
