"""The contract of every algorithm that has a name: both ends of the wire, in one process and over it."""

import pickle
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from actors.fleet import FleetState, LocalFleet
from actors.trajectory import Trajectory
from actors.wire import split
from actors.worker import ActorIdentity, Worker
from conf.knobs import ConfigError
from conf.load import load_train
from conf.schema import AlgorithmConfig, TrainConfig
from learner.algorithms import ALGORITHMS, Algorithm, find_algorithm
from learner.clients import LocalLearner
from learner.plan import LearnerPlan, ServedLearner
from learner.receipts import Verdict
from learner.schedules import SCHEDULES
from r2ac.training.build import describe_environment, initial_weights
from r2ac.training.parts import require_all_parts
from rtrl_core import carried

WORDS = [
    *("experiment=tmaze", "env.corridor=3", "fleet=local", "fleet.num_actors=2", "actors.num_envs=4"),
    *("actors.unroll=3", "network.num_units=4", "learner.mode=sync", "learner.batch_segments=8", "logging=quiet"),
]


OWN_WORDS = {
    "stream_ac": ["fleet.num_actors=1"],
    "impala": ["algorithm.options.ship=trajectories_s0"],
    "r2d2": [
        *("rule=tbptt", "network.heads=dueling", "algorithm.options.burn_in=3", "algorithm.options.length=3"),
        *(
            "algorithm.options.min_sequences=2",
            "algorithm.options.batch_sequences=4",
            "algorithm.options.replay_ratio=2.0",
        ),
        "algorithm.options.checkpoint_replay=true",
    ],
}


def ends(name: str) -> tuple[TrainConfig, Algorithm[Any], LearnerPlan[Any], dict[str, Any]]:
    config = load_train([*WORDS, f"algorithm.name={name}", *OWN_WORDS.get(name, [])])
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    algorithm = find_algorithm(config.algorithm)
    algorithm.require(config)
    plan = algorithm.plan(config, spec, layout)
    return config, algorithm, plan, plan.first_state(vector)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_fleet_that_follows_its_cluster_has_a_learner_whose_batches_follow_it_or_is_refused(name: str):
    config, algorithm, plan, state = ends(name)
    learner = LocalLearner(plan, state)
    if algorithm.follows:
        learner.resize(12, 3)
        return
    with pytest.raises(TypeError, match=r"has no resize\(batch_segments, max_lag\)"):
        learner.resize(12, 3)
    follows = replace(config, fleet=replace(config.fleet, follow_cluster=True))
    with pytest.raises(ConfigError, match=f"algorithm={name} keeps a fleet of fixed size: say fleet.num_actors=N"):
        require_all_parts(follows)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_it_sends_to_other_processes_can_be_sent(name: str):
    config, algorithm, plan, state = ends(name)
    build = pickle.loads(pickle.dumps(partial(algorithm.worker, config)))
    worker = build(ActorIdentity(0, 0, 1), None)
    assert isinstance(worker, Worker)
    learner = pickle.loads(pickle.dumps(plan)).resume(state)
    assert isinstance(learner, ServedLearner)
    assert worker.layout == learner.snapshot().layout
    contribution = worker.unroll(learner.snapshot())
    envelope, arrays = split(contribution)
    assert len(pickle.dumps(envelope)) < 10_000, "the driver moves envelopes"
    again = pickle.loads(pickle.dumps(envelope)).enclose(arrays)
    assert is_dataclass(again)
    for spec in fields(again):
        ours, theirs = getattr(again, spec.name), getattr(contribution, spec.name)
        if isinstance(theirs, torch.Tensor | Trajectory):
            assert type(ours) is type(theirs)
            assert all(map(torch.equal, carried.leaves(ours), carried.leaves(theirs)))
        else:
            assert ours == theirs
    assert learner.add(again).verdict is Verdict.ACCEPTED
    worker.close()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_learner_that_goes_on_from_its_state_ends_where_it_would_have_ended(name: str):
    def weights(interrupted: bool) -> torch.Tensor:
        config, algorithm, plan, state = ends(name)
        build = partial(algorithm.worker, config)
        num_actors = config.fleet.num_actors
        assert num_actors is not None
        fleet, learner = LocalFleet(config, num_actors, FleetState(), print, build), LocalLearner(plan, state)
        rounds = 0
        for progress in SCHEDULES["sync"](fleet, learner, 1):
            rounds += bool(progress.receipts)
            if rounds == 2 and interrupted:
                interrupted = False
                saved = pickle.loads(pickle.dumps((learner.get_state(), fleet.get_state())))
                fleet, learner = LocalFleet(config, num_actors, saved[1], print, build), LocalLearner(plan, saved[0])
                progresses = SCHEDULES["sync"](fleet, learner, 1)
                while rounds < 4:
                    rounds += bool(next(iter(progresses)).receipts)
                break
            if rounds == 4:
                break
        return learner.weights.vector

    assert torch.equal(weights(interrupted=True), weights(interrupted=False))


def test_an_unknown_one_lists_those_that_are_known():
    with pytest.raises(ValueError, match=r"unknown algorithm.name 'a3c': expected one of r2ac"):
        find_algorithm(AlgorithmConfig("a3c"))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "r2d2"])
def test_heads_that_value_actions_are_refused_by_whoever_learns_a_policy(name: str):
    config = load_train([*WORDS, f"algorithm.name={name}", *OWN_WORDS.get(name, []), "network.heads=dueling"])
    with pytest.raises(ConfigError, match=f"network.heads=dueling needs algorithm=r2d2: {name} learns a policy"):
        find_algorithm(config.algorithm).require(config)
