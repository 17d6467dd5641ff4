"""What a run is made of, built from its configuration: environment's description, first weights, fleet and learner."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from actors.build import build_seeded_network
from actors.evaluation import play
from actors.fleet import Fleet, FleetState, LocalFleet
from conf.schema import TrainConfig
from envs.base import EnvSpec
from envs.registry import make_env
from learner.algorithms import Algorithm
from learner.clients import LearnerClient, LocalLearner
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint, CheckpointError
from r2ac.persistence.resume import newest_learner
from r2ac.training.sizing import settled
from rtrl_core import FlatParameters, ParameterLayout
from rtrl_core.shapes import Float, Tensor

STREAMS_OF_RANDOM_PLAY = 8
STANDARDISED = "standardised."
OF_THE_ENCODER = ("encoder.", STANDARDISED)
"""How the names of parameters begin that ``network.load_encoder`` loads."""


class Start(NamedTuple):
    """Where a run begins: with nothing, or at a checkpoint."""

    learner: dict[str, Any]
    """What ``LearnerPlan.resume`` takes."""
    fleet: FleetState
    restarts: dict[str, int]
    """Of actors and learner, in the attempts before."""


class Machinery(NamedTuple):
    """What runs."""

    config: TrainConfig
    """Sized, also in what was not known before there was a cluster."""
    fleet: Fleet[Any, Any]
    learner: LearnerClient[Any, Any]


def open_machinery(
    asked: TrainConfig,
    config: TrainConfig,
    algorithm: Algorithm[Any],
    spec: EnvSpec,
    start: Start,
    run_dir: Path,
    layout: ParameterLayout,
    announce: Callable[[str], None],
    stack: ExitStack,
) -> Machinery:
    """The fleet and the learner of a sized configuration, in this process or on Ray; ``stack`` closes them."""
    num_actors = config.fleet.num_actors
    assert num_actors is not None
    build = partial(algorithm.worker, config)
    if config.fleet.kind == "local":
        # The learner first, because it takes no time to find its device missing.
        learner = LocalLearner(algorithm.plan(config, spec, layout), start.learner)
        local = LocalFleet(config, num_actors, start.fleet, announce, build)
        stack.callback(local.close)
        return Machinery(config, local, learner)
    # Only here is Ray needed: a machine without it can train with fleet=local.
    from learner.ray_learner import RayLearner
    from r2ac.cluster.session import ray_cluster
    from r2ac.training.fleets import open_fleet, room_of_cluster

    stack.enter_context(ray_cluster(config, num_actors, algorithm.contribution_bytes(config, spec, layout)))
    if config.fleet.follow_cluster:
        config = settled(asked, config, room_of_cluster(config))
    plan = algorithm.plan(config, spec, layout)
    fleet = open_fleet(config, start.fleet, announce, build, plan)
    stack.callback(fleet.close)
    learner = RayLearner(
        plan,
        start.learner,
        newest_state=lambda: newest_learner(config, run_dir, layout, announce),
        limits=config.fleet,
        announce=announce,
    )
    stack.callback(learner.close)
    return Machinery(config, fleet, learner)


def describe_environment(config: TrainConfig, announce: Callable[[str], None]) -> EnvSpec:
    """Builds one stream to see what it is; mistakes in its name or options come to light before anything is started."""
    env = make_env(config.env, 1, config.seed)
    try:
        for notice in env.notices():
            announce(notice)
        return env.spec
    finally:
        env.close()


def initial_weights(config: TrainConfig, spec: EnvSpec) -> tuple[ParameterLayout, Float[Tensor, " parameters"]]:
    """Weights of a new run: the same for the same seed, with the encoder of ``network.load_encoder`` if that is given."""
    network = build_seeded_network(config.network, config.rule, spec, config.seed)
    parameters = FlatParameters(network)
    if config.network.load_encoder is not None:
        copy_encoder(checkpoints.load(checkpoints.find(Path(config.network.load_encoder))), parameters)
    return parameters.layout, parameters.vector


def standardise(
    config: TrainConfig, vector: Float[Tensor, " parameters"], spec: EnvSpec, announce: Callable[[str], None]
) -> None:
    """Measures pixels in ``network.standardise_steps`` steps of random play, the same for the same seed, and puts what comes of it into
    weights of a new run. Nothing is done where pixels are not standardised, or it comes with the encoder of ``network.load_encoder``.

    Raises:
        EnvironmentFailure: if the environment dies.
    """
    steps = config.network.standardise_steps
    if not steps or config.network.load_encoder is not None:
        return
    network = build_seeded_network(config.network, config.rule, spec, config.seed)
    if network.standardised is None:
        return
    announce(f"{steps:,} steps of random play, by which pixels are standardised (network.standardise_steps)")
    network.act_evenly()
    env = make_env(config.env, streams := min(STREAMS_OF_RANDOM_PLAY, steps), config.seed)
    try:
        moves = play(network, env, greedy=False, reward_clip=config.env.reward_clip, seed=config.seed)
        rounds = islice(moves, -(-steps // streams))
        network.standardised.measure(torch.from_numpy(move.timestep.observation) for move in rounds)
    finally:
        env.close()
    measured = FlatParameters(network)
    for slot in measured.layout.slots:
        if slot.name.startswith(STANDARDISED):
            slot.view(vector).copy_(slot.view(measured.vector))


def copy_encoder(source: Checkpoint, parameters: FlatParameters) -> None:
    """Overwrites the encoder's weights, and what its images are standardised by, by those of a checkpoint.

    Raises:
        CheckpointError: if its encoder has other parameters.
    """
    theirs = {slot.name: slot for slot in source.layout.slots if slot.name.startswith(OF_THE_ENCODER)}
    ours = {slot.name: slot for slot in parameters.layout.slots if slot.name.startswith(OF_THE_ENCODER)}
    for name in theirs.keys() | ours.keys():
        if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape:
            raise CheckpointError(
                f"network.load_encoder: the checkpoint's encoder is another one (they differ in {name}); "
                f"set network.encoder, network.features and network.standardise_steps as it was trained"
            )
        ours[name].view(parameters.vector).copy_(theirs[name].view(source.vector))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
