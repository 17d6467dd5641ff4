"""The worker of streaming: what it counts and scales, whose weights it begins with, and that it goes on bit for bit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from counting_env import EPISODE, CountingEnv

import actors.games
from actors.stream_agent import Outcome, StreamOptions
from actors.stream_worker import StreamWorker, build_stream_worker
from actors.worker import ActorIdentity
from conf.load import load_train
from envs.base import VectorEnv
from rtrl_core import WeightsSnapshot

TOY = [
    *("experiment=stream_tmaze", "env.corridor=3", "network.num_units=3", "actors.num_envs=2", "actors.unroll=5"),
    "network.encoder_init=torch",
]


def make_worker(env: VectorEnv | None = None, *words: str, **options: Any) -> StreamWorker:
    config, identity = load_train([*TOY, *words]), ActorIdentity(0, 0, 1)
    if env is None:
        return build_stream_worker(config, StreamOptions(**options), identity)
    return StreamWorker(config, StreamOptions(**options), identity, env)


def present(worker: StreamWorker, version: int = 0) -> WeightsSnapshot:
    return WeightsSnapshot(version, worker.layout, worker.parameters.vector.clone())


def watch(worker: StreamWorker) -> list[Outcome]:
    """What it learns from, from here on."""
    outcomes: list[Outcome] = []
    learn = worker.agent.learn

    def learn_and_tell(outcome: Outcome) -> Any:
        outcomes.append(outcome._replace(next_values=outcome.next_values.clone()))
        return learn(outcome)

    worker.agent.learn = learn_and_tell
    return outcomes


@pytest.mark.seconds
@pytest.mark.parametrize("habit", ["same_step", "next_step"])
def test_every_transition_is_learnt_from_once_with_the_value_of_what_followed(habit: Any):
    env = CountingEnv(num_envs=3, seed=3, habit=habit)
    words = ("network.core=feedforward", "network.last_reward=false", "env.reward_clip=none")
    scales = ("observations=false", "outputs=false")
    off = (*(f"network.normalise_{scale}" for scale in scales), "network.scale_rewards=false")
    worker = make_worker(env, *words, *off, "actors.num_envs=3", "actors.unroll=30", learning_rate=1e-30)
    with torch.no_grad():  # the value says which observation it is of
        worker.network.value_head.weight.copy_(torch.tensor([[0.0, EPISODE, 1.0]]))
        worker.network.value_head.bias.zero_()
    outcomes = watch(worker)
    contribution = worker.unroll(present(worker))
    rows = torch.stack([outcome.valid for outcome in outcomes])
    assert contribution.header.num_steps == int(rows.sum()) == len(env.ledger)
    seen = []
    for outcome in outcomes:
        for b in outcome.valid.nonzero().flatten().tolist():
            reward, terminated, truncated = outcome.rewards[b], outcome.terminated[b], outcome.truncated[b]
            episode, step = divmod(int(reward), int(EPISODE))
            if not terminated:  # the same episode's next observation, also where it was cut off there
                assert outcome.next_values[b] == reward + 1
            seen.append((b, episode, step, bool(terminated), bool(truncated)))
    assert sorted(seen) == sorted(env.ledger)
    assert {(True, False), (False, True), (False, False)} == {row[3:] for row in seen}


def test_observations_and_rewards_are_scaled_by_what_was_seen_of_them_so_far():
    env = CountingEnv(num_envs=2, seed=3)
    worker = make_worker(env, "env.reward_clip=none", "actors.unroll=12", learning_rate=1e-30, discount=0.9)
    observed, played = [], []
    step = env.step

    def step_and_tell(actions: np.ndarray) -> Any:
        timestep = step(actions)
        observed.append(timestep.observation.astype(np.float64))
        played.append(timestep)
        return timestep

    env.step = step_and_tell
    observed.append(worker.games.now.observation.astype(np.float64))
    outcomes = watch(worker)
    for _ in range(2):
        worker.unroll(present(worker))

    history = np.concatenate(observed)
    moments = worker.network.observation_moments
    assert moments is not None
    mean, deviation = moments.moments()
    np.testing.assert_allclose(mean.numpy(), history.mean(0), rtol=1e-9)
    np.testing.assert_allclose(deviation.numpy(), np.sqrt(history.var(0, ddof=1) + 1e-8), rtol=1e-6)
    now = torch.from_numpy(worker.games.now.observation)
    expected = (history[-2:] - history.mean(0)) / np.sqrt(history.var(0, ddof=1) + 1e-8)
    np.testing.assert_allclose(worker.network.encode(now)[:, :3].numpy(), expected, rtol=1e-5)

    running, returns = np.zeros(2), []
    for timestep, outcome in zip(played, outcomes, strict=True):
        over = timestep.terminated | timestep.truncated
        running = np.where(over, 0, running) * 0.9 + timestep.reward
        returns += running.tolist()
        spread = np.var(returns, ddof=1)
        np.testing.assert_allclose(outcome.rewards.numpy(), timestep.reward / np.sqrt(spread + 1e-8), rtol=1e-5)
    assert len(played) == 24


def test_what_is_shipped_is_where_its_weights_stand_with_the_moments_among_them():
    worker = make_worker()
    began = present(worker, version=7)
    contribution = worker.unroll(began)
    assert contribution.header.policy_version == 7
    assert torch.equal(contribution.weights, worker.parameters.vector)
    assert not torch.equal(contribution.weights, began.vector)
    assert contribution.weights.data_ptr() != worker.parameters.vector.data_ptr()
    assert contribution.size_bytes == 4 * len(contribution.weights)
    moments = next(slot for slot in worker.parameters.layout.slots if slot.name == "running.observations.pairs")
    assert moments.view(contribution.weights)[0, 0] == 2 * (5 + 1)
    assert contribution.statistics.value_loss > 0
    assert 0 < contribution.step_size <= 1


def test_it_begins_with_the_weights_that_it_is_given_also_where_their_version_is_its_own():
    worker, other = make_worker(), make_worker()
    began = present(worker)
    worker.unroll(began)
    again = worker.unroll(began)
    assert again.header.policy_version == 0
    other.unroll(began)
    assert torch.equal(other.unroll(began).weights, again.weights)
    with pytest.raises(ValueError, match="weights of network"):
        worker.unroll(WeightsSnapshot(0, "another", began.vector))


@pytest.mark.seconds
@pytest.mark.parametrize("rule", ["segment", "tbptt"])
def test_it_goes_on_bit_for_bit(rule: str):
    def weights(interrupted: bool) -> torch.Tensor:
        worker = make_worker(None, f"rule={rule}")
        vector = worker.parameters.vector.clone()
        for version in range(4):
            if version == 2 and interrupted:
                state = worker.get_state()
                assert state is not None
                worker.close()
                worker = build_stream_worker(
                    load_train([*TOY, f"rule={rule}"]), StreamOptions(), ActorIdentity(0, 0, 1), state
                )
            contribution = worker.unroll(WeightsSnapshot(version, worker.layout, vector))
            assert contribution.header.sequence == version
            vector = contribution.weights
        return vector

    assert torch.equal(weights(interrupted=True), weights(interrupted=False))


def test_the_length_of_an_unroll_changes_when_it_ships_and_nothing_else():
    def weights(unroll: int) -> torch.Tensor:
        worker = make_worker(None, f"actors.unroll={unroll}")
        vector = worker.parameters.vector.clone()
        for version in range(12 // unroll):
            vector = worker.unroll(WeightsSnapshot(version, worker.layout, vector)).weights
        return vector

    assert torch.equal(weights(3), weights(12))


def test_after_numbers_that_ran_away_it_begins_anew_from_the_weights_of_the_learner(monkeypatch: pytest.MonkeyPatch):
    worker = make_worker()
    began = present(worker)
    with monkeypatch.context() as patch:
        patch.setattr(actors.games, "clip_rewards", lambda rewards, how: torch.full_like(rewards, math.nan))
        broken = worker.unroll(began)
    assert not broken.weights.isfinite().all()
    assert broken.statistics.streams_reset == 2
    assert worker.unroll(began).weights.isfinite().all()


def test_an_actor_of_another_network_does_not_go_on():
    state = make_worker().get_state()
    config = load_train([*TOY, "network.num_units=4"])
    with pytest.raises(ValueError, match="does not fit this network"):
        build_stream_worker(config, StreamOptions(), ActorIdentity(0, 0, 1), state)


@pytest.mark.seconds
def test_it_learns_from_the_pictures_of_atari():
    words = ["experiment=stream_atari_breakout", "network.num_units=8", "network.features=16", "actors.unroll=6"]
    worker = build_stream_worker(load_train(words), StreamOptions(), ActorIdentity(0, 0, 1))
    began = present(worker)
    contribution = worker.unroll(began)
    changed = (contribution.weights != began.vector).float()
    parts = worker.parameters.layout.parts()
    for part, slots in parts.items():
        assert sum(float(slot.view(changed).sum()) for slot in slots), part
    assert worker.network.observation_moments is None
    assert worker.network.return_moments is not None
    assert worker.get_state() is None
    worker.close()
