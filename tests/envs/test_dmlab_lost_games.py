"""Engines that die in the middle of an unroll: what the learner, the returns and an evaluation see of the game that was lost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from opened_dmlab import STREAMS, wait_for_spares

from actors.actor import Actor
from actors.evaluation import evaluate
from actors.worker import ActorIdentity
from conf.env_schema import DMLabConfig
from conf.schema import ActorsConfig, LossConfig, NetworkConfig, RuleConfig
from envs.dmlab.environment import DMLabEnv
from rtrl_core import VTrace, WeightsSnapshot, vtrace


@pytest.mark.seconds
def test_an_unroll_in_which_an_engine_died_has_a_finite_gradient_of_its_real_steps(
    open_env: Callable[..., DMLabEnv], faults: Callable[[str], None]
):
    env = open_env(DMLabConfig(spare_engines=1, width=16, height=16), steps=[30, 40])
    actor = Actor(
        *(ActorIdentity(0, 0, 1), [env], NetworkConfig(features=8, num_units=4), RuleConfig(), LossConfig()),
        *(ActorsConfig(num_envs=STREAMS, unroll=10, autocast="float32"), "none"),
    )
    weights = WeightsSnapshot(0, actor.parameters.layout.fingerprint, actor.parameters.vector.clone())
    assert actor.unroll(weights).header.num_steps == 30
    wait_for_spares(env)
    faults("exit-step")
    contribution = actor.unroll(weights)
    assert contribution.header.num_steps == 29
    assert contribution.statistics.env_counters["engine_restarts"] == 1
    assert contribution.statistics.episodes == ()
    assert torch.isfinite(contribution.gradient).all()
    assert contribution.gradient.abs().sum() > 0


@pytest.mark.seconds
def test_a_game_that_was_lost_with_its_engine_adds_nothing_to_the_next_ones_return(
    open_env: Callable[..., DMLabEnv], monkeypatch: pytest.MonkeyPatch, faults: Callable[[str], None]
):
    env = open_env(DMLabConfig(spare_engines=1, width=16, height=16), streams=1, steps=[16, 16])
    actor = Actor(
        *(ActorIdentity(0, 0, 1), [env], NetworkConfig(features=8, num_units=4), RuleConfig(), LossConfig()),
        *(ActorsConfig(num_envs=1, unroll=8, autocast="float32"), "none"),
    )
    weights = WeightsSnapshot(0, actor.parameters.layout.fingerprint, actor.parameters.vector.clone())
    begin, steps = env.begin, iter(range(10**6))

    def lose_one(actions: np.ndarray) -> None:
        if next(steps) == 10:
            faults("exit-step")
        begin(actions)

    monkeypatch.setattr(env, "begin", lose_one)
    episodes = [episode for _ in range(6) for episode in actor.unroll(weights).statistics.episodes]
    assert len(episodes) == 2
    assert {episode.length for episode in episodes} == {16}
    rewards = [float(step) + 0.5 for step in range(1, 17) if step % 2 == 0]
    assert {episode.episode_return for episode in episodes} == {sum(rewards)}

    other = open_env(DMLabConfig(spare_engines=1, width=16, height=16), streams=1, steps=[16, 16])
    begin, steps = other.begin, iter(range(10**6))
    monkeypatch.setattr(other, "begin", lose_one)
    score = evaluate(actor.network, other, episodes=2, greedy=True, reward_clip="none", seed=1)
    assert (score.returns, score.lengths) == ([sum(rewards)] * 2, [16] * 2)
    assert other.statistics()["engine_restarts"] == 1


@pytest.mark.seconds
@pytest.mark.parametrize("spares", [0, 1])
def test_what_came_before_an_engine_was_lost_is_bootstrapped_as_at_any_cut(
    open_env: Callable[..., DMLabEnv],
    faults: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    spares: int,
):
    env = open_env(DMLabConfig(spare_engines=spares, width=16, height=16), steps=[30, 40])
    actor = Actor(
        *(ActorIdentity(0, 0, 1), [env], NetworkConfig(features=8, num_units=4), RuleConfig(), LossConfig()),
        *(ActorsConfig(num_envs=STREAMS, unroll=10, autocast="float32"), "none"),
    )
    with torch.no_grad():  # values that show whether one is missing, doubled or discounted once more
        actor.network.value_head.bias.fill_(10.0)
    weights = WeightsSnapshot(0, actor.parameters.layout.fingerprint, actor.parameters.vector.clone())
    wait_for_spares(env)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def listen(**arguments: Any) -> VTrace:
        returns = vtrace(**arguments)
        seen.append((arguments["values"], returns.targets))
        return returns

    begin, steps = env.begin, iter(range(10))

    def lose_one(actions: np.ndarray) -> None:
        if next(steps) == 5:
            faults("exit-step")
        begin(actions)

    monkeypatch.setattr("actors.gradients.vtrace", listen)
    monkeypatch.setattr(env, "begin", lose_one)
    actor.unroll(weights)
    rows, ((values, targets),) = actor.rollout.unroll, seen
    ((stream,),) = np.nonzero((rows.truncated & ~rows.valid)[5].numpy())
    assert rows.valid[:5].all()
    assert not rows.is_first[1:6, stream].any(), "until then it is in the middle of its episode"
    assert rows.is_first[6, stream]
    expected = values[5, stream]
    assert expected > 5
    for t in range(4, -1, -1):
        expected = rows.rewards[t, stream] + LossConfig().discount * expected
        assert targets[t, stream] == pytest.approx(float(expected), abs=1e-4)
