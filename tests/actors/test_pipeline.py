"""An actor whose streams are stepped in groups: it contributes what one actor for each group contributes together."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from counting_env import CountingEnv
from every_algorithm import IMPALA, R2D2
from local_run import double_precision
from toy_actor import make_actor, present_weights
from unrolled import DIAGONAL_RULES

from actors.actor import Actor, build_actor
from actors.base_actor import BaseActor
from actors.stem import Stem, StepInput
from actors.worker import ActorIdentity
from conf.knobs import ConfigError
from conf.load import load_train
from conf.schema import NetworkConfig, TrainConfig
from envs.base import Timestep, VectorEnv, spawn_seeds
from envs.registry import make_parts
from learner.algorithms import find_algorithm
from r2ac.training.sizing import sized
from rtrl_core import GradientContribution, WeightsSnapshot, carried
from rtrl_core.policies import QValues


def group_alone(number: int, of: int, actor_id: int = 0) -> ActorIdentity:
    """Who draws the actions of one group of an actor as if it had no others."""

    class Alone(ActorIdentity):
        __slots__ = ()

        def action_seeds(self, groups: int) -> list[int]:
            assert groups == 1
            return [spawn_seeds(self.action_seed, of)[number]]

    return Alone(actor_id, 0, 1)


def counting(sizes: Sequence[int], habit: Any, lengths: tuple[int, int] = (2, 9)) -> list[CountingEnv]:
    firsts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [
        CountingEnv(size, seed=2, habit=habit, first_stream=first, lengths=lengths)
        for size, first in zip(sizes, firsts, strict=True)
    ]


@pytest.mark.parametrize("sizes", [(3, 3), (3, 2, 2), (1, 1)])
@pytest.mark.parametrize("unroll", [1, 5])
@pytest.mark.parametrize("rule", DIAGONAL_RULES)
@pytest.mark.parametrize("habit", ["same_step", "next_step"])
def test_it_contributes_what_its_groups_contribute_as_actors_of_their_own(
    habit: Any, rule: str, unroll: int, sizes: Sequence[int]
):
    with double_precision():
        whole = make_actor(counting(sizes, habit), unroll=unroll, rule=rule)
        alone = []
        for number, env in enumerate(counting(sizes, habit)):
            actor = make_actor(env, unroll=unroll, rule=rule)
            actor.rollout.groups[0].games.noise.manual_seed(group_alone(number, len(sizes)).action_seeds(1)[0])
            alone.append(actor)
        weights = present_weights(whole)
        for _ in range(12 // unroll + 1):
            ours, theirs = whole.unroll(weights), [actor.unroll(weights) for actor in alone]
            expected = sum((one.gradient for one in theirs), torch.zeros(()))
            assert (ours.gradient - expected).abs().max() <= 1e-12 * expected.abs().max()
            assert ours.header.num_steps == sum(one.header.num_steps for one in theirs)
            assert ours.header.num_frames == sum(one.header.num_frames for one in theirs)
            assert ours.header.num_segments == sum(sizes)
            assert ours.statistics.episodes == tuple(e for one in theirs for e in one.statistics.episodes)
            losses = sum(one.statistics.policy_loss for one in theirs)
            assert ours.statistics.policy_loss == pytest.approx(losses, rel=1e-9)


SIZES = (
    *("actors.num_envs=5", "actors.unroll=5", "fleet=local", "fleet.num_actors=2", "network.num_units=8"),
    *("network.features=8", "actors.autocast=float32", "actors.pipeline=2"),
)
ATARI = ("env=atari/breakout", "network=nature", "env.noop_max=5")
TMAZE = ("env=tmaze", "network=none", "env.corridor=4")
LAB = (
    *(
        "env=dmlab30",
        "env.levels=[rooms_watermaze,language_execute_random_task,rooms_keys_doors_puzzle]",
        "network=nature",
    ),
    *("env.wait_for_reset=true", "env.width=48", "env.height=40", "env.spare_engines=2"),
)
WORDS = {
    "r2ac, atari": (*ATARI,),
    "r2ac, retained": (*ATARI, "actors.activations=retain"),
    "r2ac, recomputed": (*ATARI, "actors.activations=recompute"),
    "r2ac, refreshed": (*TMAZE, "rule.refresh=10", "rule.refresh_every=1"),
    "r2ac, lstm": (*TMAZE, "network.core=lstm", "rule=snap1"),
    "r2ac, feedforward": (*TMAZE, "network.core=feedforward"),
    "r2ac, measured": (*TMAZE, "actors.fidelity_every=1"),
    "r2ac, dmlab": LAB,
    "impala, dmlab": (*LAB, *IMPALA),
    "impala": (*TMAZE, *IMPALA),
    "impala, atari": (*ATARI, *IMPALA),
    "impala with sensitivities": (*TMAZE, "algorithm=impala", "algorithm.options.ship=trajectories_s0"),
    "r2d2": (*TMAZE, "network.heads=dueling", *R2D2),
    "r2d2, atari": (*ATARI, "network.heads=dueling", *R2D2),
}


def configured(words: Sequence[str]) -> TrainConfig:
    return sized(load_train([*SIZES, *words]), 1)


def of_one_group(config: TrainConfig, number: int, sizes: Sequence[int]) -> BaseActor[Any]:
    """The actor that the algorithm builds, with one group's environment, action seed and share of exploration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "actors.opening.make_parts",
            lambda env, num_envs, seed, count: [make_parts(env, num_envs, seed, count)[number]],
        )
        actor = find_algorithm(config.algorithm).worker(config, group_alone(number, len(sizes), actor_id=1), None)
    assert isinstance(actor, BaseActor)
    if isinstance(actor.network.distribution, QValues):
        first = sum(sizes[:number])
        actor.network.distribution = actor.network.distribution.of(slice(first, first + sizes[number]))
    return actor


def leaves_of(trajectory: Any, streams: slice) -> list[torch.Tensor]:
    """All that a trajectory says of these streams."""
    found = [torch.stack([trajectory.observations.of(stream) for stream in range(streams.start, streams.stop)], 1)]
    for name in (
        "instructions",
        "last_rewards",
        "last_actions",
        "is_first",
        "terminated",
        "truncated",
        "valid",
        "noted",
    ):
        rows = getattr(trajectory, name)
        found += [] if rows is None else [rows[:, streams]]
    row, stream = trajectory.cut_places.unbind(1)
    mine = (stream >= streams.start) & (stream < streams.stop)
    found += [torch.stack([row[mine], stream[mine] - streams.start]), trajectory.cut_observations[mine]]
    return [*found, *(leaf[streams] for leaf in carried.leaves(trajectory.before))]


@pytest.mark.seconds
@pytest.mark.parametrize("words", list(WORDS.values()), ids=list(WORDS))
def test_so_does_every_algorithm_from_words_on(words: Sequence[str], request: pytest.FixtureRequest):
    if "env=dmlab30" in words:
        request.getfixturevalue("lab")
    with double_precision():
        config, sizes = configured(words), (3, 2)
        whole = find_algorithm(config.algorithm).worker(config, ActorIdentity(1, 0, 1), None)
        assert isinstance(whole, BaseActor)
        alone = [of_one_group(config, number, sizes) for number in range(2)]
        for version in range(5):
            vector = whole.parameters.vector * (1 + 0.01 * version)
            weights = WeightsSnapshot(version, whole.layout, vector)
            require_sum(whole.unroll(weights), [actor.unroll(weights) for actor in alone])
        for actor in (whole, *alone):
            actor.close()


def require_sum(whole: Any, groups: Sequence[Any]) -> None:
    if isinstance(whole, GradientContribution):
        expected = sum((one.gradient for one in groups), torch.zeros(()))
        assert (whole.gradient - expected).abs().max() <= 1e-12 * expected.abs().max()
        return
    first = 0
    for group in groups:
        size = group.trajectory.num_envs
        ours, theirs = (
            leaves_of(whole.trajectory, slice(first, first + size)),
            leaves_of(group.trajectory, slice(0, size)),
        )
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        first += size


class Watched(VectorEnv):
    """Says when its games are told to play and when they are waited for."""

    def __init__(self, name: str, said: list[str]) -> None:
        self._inner, self._name, self._said = CountingEnv(2, 1), name, said
        self.spec, self.num_envs = self._inner.spec, 2

    def reset(self) -> Timestep:
        return self._inner.reset()

    def step(self, actions: np.ndarray) -> Timestep:
        raise AssertionError("nobody waits from the beginning to the end of a step")

    def begin(self, actions: np.ndarray) -> None:
        self._said.append(f"{self._name} plays")
        self._inner.begin(actions)

    def finish(self) -> Timestep:
        self._said.append(f"wait for {self._name}")
        return self._inner.finish()


def test_while_one_group_plays_the_network_acts_for_the_other():
    said: list[str] = []
    actor = make_actor([Watched("A", said), Watched("B", said)], unroll=2)
    inputs = actor.stem.inputs

    def acting(step: StepInput) -> torch.Tensor:
        said.append("act")
        return inputs(step)

    actor.stem.inputs = acting  # pyright: ignore[reportAttributeAccessIssue]
    actor.unroll(present_weights(actor))
    assert said == [
        *("act", "A plays", "act", "B plays", "wait for A"),
        *("act", "A plays", "wait for B", "act", "B plays", "wait for A", "wait for B"),
    ]


def test_beside_playing_games_it_acts_with_one_thread_and_learns_with_all():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for groups, acting in ((1, 2), (2, 1)):
            actor = make_actor(counting([2] * groups, "same_step"), unroll=2)
            seen: list[int] = []
            count_threads(actor.stem, seen)
            actor.unroll(present_weights(actor))
            assert seen == [acting] * 2 * groups + [2]
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def count_threads(stem: Stem, seen: list[int]) -> None:
    inputs, backward = stem.inputs, stem.backward

    def acting(step: StepInput) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return inputs(step)

    def learning(gradient: Any) -> None:
        seen.append(torch.get_num_threads())
        backward(gradient)

    stem.inputs, stem.backward = acting, learning  # pyright: ignore[reportAttributeAccessIssue]


def test_a_failure_of_one_group_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    envs = counting([2, 2], "same_step")
    envs[1]._fail_at = 2
    actor = make_actor(envs, unroll=5)
    with pytest.raises(Exception, match="told to fail"):
        actor.unroll(present_weights(actor))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("bad", [1, 4])
def test_a_stream_whose_numbers_run_away_begins_anew_in_its_group_and_nobody_else_does(bad: int):
    """Each of the others contributes what it contributes without the bad one."""
    long = (50, 60)  # no stream begins anew by itself
    whole, other = (make_actor(counting([3, 2], "same_step", long), unroll=4, greedy=True) for _ in range(2))
    weights = present_weights(whole)
    for actor in (whole, other):
        actor.unroll(weights)
    cell = whole.rollout.core.cell.clone()
    cell[bad] = torch.inf
    whole.rollout.core = whole.rollout.core._replace(cell=cell)
    ours, theirs = whole.unroll(weights), other.unroll(weights)
    assert (ours.statistics.streams_reset, theirs.statistics.streams_reset) == (1, 0)
    assert ours.gradient.isfinite().all()
    assert whole.rollout.core.finite_streams().all()
    others = [stream for stream in range(5) if stream != bad]
    assert not whole.rollout.core.cell[bad].any()
    for mine, same in zip(carried.leaves(whole.rollout.core), carried.leaves(other.rollout.core), strict=True):
        assert torch.equal(mine[others], same[others])
    last = [torch.cat([group.games.last_reward for group in actor.rollout.groups]) for actor in (whole, other)]
    assert last[0][bad] == 0
    assert torch.equal(last[0][others], last[1][others])


def test_each_stream_keeps_its_own_share_of_chance():
    values = QValues(3)
    assert values.of(slice(0, 2)) is values
    values.epsilon = torch.tensor([0.0, 1.0, 0.5])
    part = values.of(slice(1, 3))
    assert isinstance(part, QValues)
    assert torch.equal(torch.as_tensor(part.epsilon), torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize("activations", ["retain", "recompute"])
def test_it_goes_on_bit_for_bit_from_a_saved_state(activations: str):
    config = configured((*TMAZE, "network=mlp", f"actors.activations={activations}"))
    straight = build_actor(config, ActorIdentity(0, 0, 1))
    weights = WeightsSnapshot(0, straight.layout, straight.parameters.vector.clone())
    for _ in range(4):
        straight.unroll(weights)
    state = straight.get_state()
    assert state is not None
    resumed = build_actor(config, ActorIdentity(0, 0, 1), state)
    for _ in range(4):
        ours, theirs = resumed.unroll(weights), straight.unroll(weights)
        assert torch.equal(ours.gradient, theirs.gradient)
        assert ours.header == theirs.header
        for spec in fields(ours.statistics):
            if not spec.name.endswith(("_time_s", "rss_bytes")):
                assert getattr(ours.statistics, spec.name) == getattr(theirs.statistics, spec.name), spec.name


def test_it_has_no_state_to_go_on_from_if_one_of_its_environments_has_none():
    assert make_actor(counting([2, 2], "same_step")).get_state() is None


def test_two_groups_draw_different_actions():
    network = NetworkConfig(encoder="none", core="feedforward", num_units=4)
    actor = make_actor([CountingEnv(3, 1), CountingEnv(3, 1)], unroll=20, network=network)
    actor.unroll(present_weights(actor))
    rows = actor.rollout.unroll.actions
    assert not torch.equal(rows[:, :3], rows[:, 3:]), "the same games, and the same noise"


@pytest.mark.parametrize(
    ("option", "instead"),
    [("actors.pipeline=2", "actors.pipeline=1"), ("actors.cuda_graphs=always", "actors.cuda_graphs=auto")],
)
def test_learning_at_every_step_has_no_time_for_groups_nor_work_that_is_done_again(option: str, instead: str):
    config = load_train(["algorithm=stream_ac", "fleet.num_actors=1", "learner.mode=sync", "env=tmaze", option])
    with pytest.raises(ConfigError, match=f"{option}.* use {instead}"):
        find_algorithm(config.algorithm).require(config)


def test_an_actor_of_one_group_is_what_it_was():
    """Its seeds are those of the runs before there were groups."""
    identity = ActorIdentity(3, 1, 7)
    assert identity.action_seeds(1) == [identity.action_seed]
    assert len({*identity.action_seeds(2), identity.action_seed}) == 3
    assert isinstance(make_actor(CountingEnv(2, 1)), Actor)
