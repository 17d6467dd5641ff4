"""Actors whose passes are recorded: they contribute what they contribute without, whatever the network, and go on without where one cannot
be recorded. On a CPU operators are taped as a stream that captures would (``tape.py``); with a CUDA device, graphs are the real ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from counting_env import CountingEnv
from every_algorithm import IMPALA, R2D2
from local_run import double_precision
from tape import Tape
from toy_actor import make_actor, present_weights
from unrolled import EVERY_CELL

from actors import graphs
from actors.actor import Actor
from actors.base_actor import BaseActor
from actors.recorded import RecordedDifferentiation, RecordedStem
from actors.stem import FrozenStem, RecomputedStem
from actors.worker import ActorIdentity
from conf.knobs import ConfigError
from conf.load import load_train
from conf.schema import NetworkConfig, RuleConfig
from envs.base import VectorEnv
from envs.tmaze import TMaze
from learner.algorithms import find_algorithm
from r2ac.training.sizing import sized
from rtrl_core import GradientContribution, WeightsSnapshot, carried

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
on_each_device = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def _tapes_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(graphs.GRAPHS, "cpu", Tape)


@pytest.fixture(autouse=True)
def _in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


def counting(habit: Any = "same_step") -> CountingEnv:
    return CountingEnv(5, seed=2, habit=habit, lengths=(2, 9))


def pair(env: Callable[[], VectorEnv | list[VectorEnv]], device: str, **options: Any) -> tuple[Actor, Actor]:
    """An actor with graphs, and one without."""
    with_graphs, without = (
        make_actor(env(), cuda_graphs=asked, device=device, **options) for asked in ("always", "never")
    )
    return with_graphs, without


def assert_same(ours: GradientContribution, theirs: GradientContribution) -> None:
    assert (ours.gradient - theirs.gradient).abs().max() <= 1e-9 * theirs.gradient.abs().max()
    assert ours.header == theirs.header
    left_alone = {"env_time_s", "act_time_s", "learn_time_s", "wait_time_s", "rss_bytes", "cuda_graphs"}
    for field in fields(ours.statistics):
        if field.name not in left_alone:
            one, other = (getattr(each.statistics, field.name) for each in (ours, theirs))
            assert one == (pytest.approx(other, rel=1e-9, abs=1e-12) if isinstance(other, float) else other), field.name


def assert_same_for(ours: Actor, theirs: Actor, unrolls: int = 7) -> list[GradientContribution]:
    """With weights that change from one to the next."""
    weights, seen = present_weights(theirs), []
    for version in range(unrolls):
        given = WeightsSnapshot(version, weights.layout, (weights.vector * (1 - 0.02 * version)).cpu())
        seen.append(ours.unroll(given))
        assert_same(seen[-1], theirs.unroll(given))
        assert seen[-1].statistics.cuda_graphs
    for one, other in zip(carried.leaves(ours.rollout.core), carried.leaves(theirs.rollout.core), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    return seen


def is_learning_from_graphs(actor: Actor) -> bool:
    differentiation = actor._differentiation
    assert isinstance(differentiation, RecordedDifferentiation)
    return differentiation._recorded is not None and differentiation._recorded._pass.is_graph


@pytest.mark.parametrize("habit", ["same_step", "next_step"])
@pytest.mark.parametrize("unroll", [1, 5])
@pytest.mark.parametrize("rule", ["segment", "tbptt"])
@on_each_device
def test_it_contributes_what_it_contributes_without_graphs(device: str, rule: str, unroll: int, habit: Any):
    ours, theirs = pair(lambda: counting(habit), device, rule=rule, unroll=unroll)
    assert isinstance(ours.stem, RecordedStem)
    assert_same_for(ours, theirs)
    assert is_learning_from_graphs(ours)
    assert not theirs.unroll(present_weights(theirs, 99)).statistics.cuda_graphs


@pytest.mark.parametrize("cell", EVERY_CELL)
@on_each_device
def test_with_every_cell(device: str, cell: str):
    ours, theirs = pair(counting, device, unroll=3, core=cell)
    assert_same_for(ours, theirs, 4)
    assert is_learning_from_graphs(ours)


NETWORKS: dict[str, tuple[dict[str, Any], RuleConfig, bool]] = {
    "stack": ({"layers": 2}, RuleConfig("segment"), True),
    "separate critic": ({"critic": "separate"}, RuleConfig("segment"), True),
    "feedforward": ({"core": "feedforward"}, RuleConfig("segment"), True),
    "last action": ({"last_action": True}, RuleConfig("segment"), True),
    "refreshed": ({}, RuleConfig("segment", refresh=8, refresh_every=2), False),
    "reference": ({}, RuleConfig("reference"), False),
    "lstm": ({"core": "lstm"}, RuleConfig("snap1"), False),
    "uoro": ({"core": "gru"}, RuleConfig("uoro"), False),
    "exact across layers": ({"layers": 2}, RuleConfig("segment", across_layers="exact"), False),
    "retnet": ({"core": "retnet", "num_units": 8}, RuleConfig("segment"), False),
    "ema": ({"core": "ema"}, RuleConfig("segment"), False),
}
"""Options, rule, and whether its learning is recorded too."""


@pytest.mark.parametrize("name", NETWORKS)
@on_each_device
def test_with_every_kind_of_network(device: str, name: str):
    options, rule, learns = NETWORKS[name]
    network = NetworkConfig(**{"encoder": "mlp", "mlp_sizes": [8], "features": 5, "num_units": 6, **options})
    ours, theirs = pair(counting, device, unroll=4, network=network, rule_config=rule)
    assert_same_for(ours, theirs)
    assert is_learning_from_graphs(ours) == learns


@pytest.mark.parametrize("habit", ["same_step", "next_step"])
@on_each_device
def test_with_several_passes_it_acts_in_graphs_and_contributes_in_each_what_it_contributes_without(
    device: str, habit: Any
):
    ours, theirs = pair(lambda: counting(habit), device, unroll=5, passes=3)
    assert isinstance(ours.stem, RecordedStem)
    assert_same_for(ours, theirs)


@on_each_device
def test_groups_of_streams_of_different_sizes(device: str):
    def groups() -> list[VectorEnv]:
        return [CountingEnv(n, seed=2, first_stream=first, lengths=(2, 9)) for n, first in ((3, 0), (2, 3))]

    assert_same_for(*pair(groups, device, unroll=5))


@on_each_device
def test_the_stem_goes_back_in_parts_that_fit_the_budget(device: str):
    ours, theirs = pair(counting, device, unroll=7, activation_budget_bytes=1)
    assert_same_for(ours, theirs)
    ours, theirs = pair(counting, device, unroll=7)
    assert isinstance(ours.stem, RecordedStem)
    ours.stem._rows = 15
    assert_same_for(ours, theirs)
    assert set(ours.stem._of_rows) == {15, 5}


@on_each_device
def test_a_frozen_stem_and_one_without_parameters(device: str):
    for network in (
        NetworkConfig(encoder="none", num_units=6),
        NetworkConfig(encoder="mlp", mlp_sizes=[8], features=5, num_units=6, freeze_encoder=True),
    ):
        ours, theirs = pair(counting, device, unroll=4, network=network)
        assert isinstance(ours.stem, FrozenStem)
        assert_same_for(ours, theirs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@on_each_device
def test_a_stream_whose_state_is_broken_is_left_out_and_begins_anew(device: str, value: float):
    ours, theirs = pair(counting, device, unroll=2)
    weights = present_weights(theirs)
    for version in range(8):
        if version in (0, 1, 4):
            for actor in (ours, theirs):
                cell = actor.rollout.core.cell.clone()
                cell[2] = value
                actor.rollout.core = actor.rollout.core._replace(cell=cell)
        given = WeightsSnapshot(version, weights.layout, weights.vector.cpu())
        assert_same(ours.unroll(given), theirs.unroll(given))
    assert all(actor.rollout.core.finite_streams().all() for actor in (ours, theirs))


@pytest.mark.parametrize("at", [0, 1, 3])
@on_each_device
def test_it_goes_on_bit_for_bit_from_where_it_was_saved(device: str, at: int):
    """The sensitivity lies elsewhere afterwards: what was recorded of the one before is not done to it."""
    whole, resumed = (
        make_actor(TMaze(4, 1, corridor=5), unroll=3, cuda_graphs="always", device=device) for _ in range(2)
    )
    weights = present_weights(whole)
    for _ in range(at):
        whole.unroll(weights)
    for _ in range(at % 3):
        resumed.unroll(weights)
    state = whole.get_state()
    assert state is not None
    resumed.set_state(state)
    for _ in range(4):
        one, other = whole.unroll(weights), resumed.unroll(weights)
        assert torch.equal(one.gradient, other.gradient)
        assert one.header == other.header


@pytest.mark.parametrize(("encoder", "why"), [("ReadsNumbers", "(captur|synchroniz)"), ("Counts", "does not say")])
@on_each_device
def test_a_network_that_cannot_be_recorded_goes_without_or_is_refused(device: str, encoder: str, why: str):
    network = NetworkConfig(encoder=f"own_encoders:{encoder}", features=5, num_units=6)
    actor = make_actor(counting(), unroll=3, network=network, cuda_graphs="auto", device=device)
    contribution = actor.unroll(present_weights(actor))
    assert not contribution.statistics.cuda_graphs
    assert contribution.gradient.isfinite().all()
    with pytest.raises(ConfigError, match=f"actors.cuda_graphs=always: this network cannot be recorded .*{why}"):
        make_actor(counting(), unroll=3, network=network, cuda_graphs="always", device=device)


@on_each_device
def test_a_stem_whose_way_back_cannot_be_recorded_goes_back_without(device: str):
    network = NetworkConfig(encoder="own_encoders:ReadsGradients", features=5, num_units=6)
    ours, theirs = pair(counting, device, unroll=3, network=network)
    assert type(ours.stem) is RecomputedStem
    assert_same_for(ours, theirs)


@on_each_device
def test_learning_that_cannot_be_recorded_goes_on_without(device: str, monkeypatch: pytest.MonkeyPatch):
    ours, theirs = pair(counting, device, unroll=3)
    distribution = ours.network.distribution
    entropy = distribution.entropy

    def looked_at(parameters: torch.Tensor) -> torch.Tensor:
        assert float(parameters.detach().sum()) is not None
        return entropy(parameters)

    monkeypatch.setattr(distribution, "entropy", looked_at)
    assert_same_for(ours, theirs)
    assert not is_learning_from_graphs(ours)


KEPT = ("actors.device=cuda", "actors.activations=retain")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "needs a CUDA device, got actors.device=cpu"),
        (IMPALA, "needs a CUDA device, got actors.device=cpu"),
        ((*R2D2, "network.heads=dueling"), "needs a CUDA device, got actors.device=cpu"),
        (KEPT, "keep no activations, but actors.activations=retain"),
    ],
)
def test_graphs_that_must_be_and_cannot_are_refused_before_anything_starts(words: Sequence[str], why: str):
    config = load_train([*TMAZE, *words, "actors.cuda_graphs=always"])
    with pytest.raises(ConfigError, match=f"actors.cuda_graphs=always.*{why}"):
        find_algorithm(config.algorithm).require(config)


def test_what_a_learner_keeps_has_nothing_to_do_with_its_actors_graphs():
    config = load_train([*TMAZE, *IMPALA, *KEPT, "actors.cuda_graphs=always"])
    find_algorithm(config.algorithm).require(config)


def test_who_asks_for_kept_activations_gets_them():
    ours = make_actor(counting(), unroll=3, activations="retain")
    assert not ours.unroll(present_weights(ours)).statistics.cuda_graphs
    assert not isinstance(ours.stem, RecomputedStem)


def test_where_there_are_no_graphs_nobody_asks_for_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(graphs.GRAPHS, "cpu")
    actor = make_actor(counting(), unroll=3)
    assert not actor.unroll(present_weights(actor)).statistics.cuda_graphs
    with pytest.raises(ConfigError, match="there are no graphs on cpu"):
        make_actor(counting(), unroll=3, cuda_graphs="always")


SIZES = (
    *("actors.num_envs=4", "actors.unroll=5", "fleet=local", "fleet.num_actors=1", "network.num_units=8"),
    *("network.features=8", "actors.autocast=float32"),
)
ATARI = ("env=atari/breakout", "network=nature", "env.noop_max=5")
TMAZE = ("env=tmaze", "network=none", "env.corridor=4")
LAB = (
    *("env=dmlab30", "env.levels=[rooms_watermaze,language_execute_random_task]", "network=nature"),
    *("env.wait_for_reset=true", "env.width=48", "env.height=40", "env.spare_engines=2"),
)
WORDS: dict[str, Sequence[str]] = {
    "atari": ATARI,
    "atari in groups": (*ATARI, "actors.pipeline=2"),
    "atari, impala stem": ("env=atari/breakout", "network=impala", "env.noop_max=5"),
    "measured, shipped in bfloat16": (*TMAZE, "actors.fidelity_every=1", "actors.wire=bfloat16"),
    "dmlab, with instructions": LAB,
    "impala, dmlab": (*LAB, *IMPALA),
    "impala": (*TMAZE, *IMPALA),
    "impala, atari": (*ATARI, *IMPALA),
    "impala with sensitivities": (*TMAZE, "algorithm=impala", "algorithm.options.ship=trajectories_s0"),
    "r2d2": (*TMAZE, "network.heads=dueling", *R2D2),
}


RARER = ("atari, impala stem", "impala, atari")


@pytest.mark.seconds
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak) if name in RARER else name for name in WORDS]
)
@on_each_device
def test_of_every_algorithm_as_its_words_say(device: str, name: str, request: pytest.FixtureRequest):
    if "env=dmlab30" in WORDS[name]:
        request.getfixturevalue("lab")
    found = []
    for asked in ("always", "never"):
        words = [*SIZES, *WORDS[name], f"actors.device={device}", f"actors.cuda_graphs={asked}"]
        config = sized(load_train(words), 1)
        actor = find_algorithm(config.algorithm).worker(config, ActorIdentity(0, 0, 1), None)
        assert isinstance(actor, BaseActor)
        vector = actor.parameters.vector.cpu().clone()
        contributions = [
            actor.unroll(WeightsSnapshot(version, actor.layout, vector * (1 - 0.02 * version))) for version in range(4)
        ]
        assert contributions[-1].statistics.cuda_graphs == (asked == "always")
        actor.close()
        found.append([bulk(one) for one in contributions])
    for one, other in zip(*found, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


def bulk(contribution: Any) -> list[torch.Tensor]:
    if isinstance(contribution, GradientContribution):
        return [contribution.gradient]
    trajectory = contribution.trajectory
    return [trajectory.observations.unpack(), *carried.leaves(trajectory._replace(observations=None))]
