"""Several gradients of one unroll: each is the oracle's under the weights that it is of, nothing counts twice, nothing is lost between."""

import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from counting_env import CountingEnv
from endless_env import BAD, STREAMS, EndlessEnv
from local_run import double_precision
from toy_actor import core_of, make_actor, present_weights

from actors.actor import Actor
from actors.change import PolicyChange
from conf.knobs import ConfigError
from conf.load import load_train
from conf.schema import LossConfig
from envs.base import Timestep
from envs.tmaze import TMaze
from learner.algorithms import find_algorithm
from r2ac.commands.train import main as rtrl_train
from rtrl_core import CoreState, PolicyNetwork, WeightsSnapshot, carried
from rtrl_core.policies import Categorical

Habit = Literal["same_step", "next_step"]

pytestmark = pytest.mark.seconds


@pytest.fixture(autouse=True)
def _in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


class Played(NamedTuple):
    """An unroll as the oracle knows it: from an environment of its own, and from what was done."""

    steps: list[Timestep]
    """T + 1: the first is what the network saw before its first action."""
    actions: torch.Tensor
    before: CoreState


class Pass(NamedTuple):
    gradient: torch.Tensor
    cells: torch.Tensor
    """After the last step, with a graph to the core's parameters."""
    network: PolicyNetwork


def other_weights(actor: Actor, version: int, size: float = 0.05) -> WeightsSnapshot:
    vector = actor.parameters.vector + size * torch.randn(actor.parameters.vector.shape)
    return WeightsSnapshot(version, actor.layout, vector)


class Oracle:
    """Autograd through the unroll, step by step, from the ``c_0`` and ``S_0`` that the actor carried; V-trace and PPO's clipping as they
    are written, stream by stream."""

    def __init__(self, actor: Actor, loss: LossConfig) -> None:
        self.slots, self.loss = actor.parameters.layout.slots, loss
        self.network = deepcopy(actor.network)
        self.log_mu: torch.Tensor | None = None

    def gradient(self, played: Played, weights: WeightsSnapshot) -> Pass:
        """The first call is with the weights that acted."""
        parameters = dict(self.network.named_parameters())
        for slot in self.slots:
            parameters[slot.name].data.copy_(slot.view(weights.vector))
        cell, nobody = self._with_credit(played.before), np.zeros(3, bool)
        log_policy, values, followed = [], [], []
        for now, after in pairwise(played.steps):
            (logits, value), cell = self._step(now.observation, now.reward, now.is_first, cell)
            log_policy.append(logits.log_softmax(-1))
            values.append(value)
            (_, following), _ = self._step(after.observation, after.reward, after.is_first, cell)
            if after.final_observation is not None:
                (_, of_cut), _ = self._step(after.final_observation, after.reward, nobody, cell)
                following = torch.where(torch.from_numpy(after.truncated & after.is_first), of_cut, following)
            followed.append(following.detach())
        chosen = torch.stack(log_policy).gather(-1, played.actions.unsqueeze(-1)).squeeze(-1)
        if self.log_mu is None:
            self.log_mu = chosen.detach()
        returns = self._returns(played, (chosen.detach() - self.log_mu).exp(), torch.stack(values).detach(), followed)
        entropies = -(torch.stack(log_policy).exp() * torch.stack(log_policy)).sum(-1)
        valid = torch.stack([torch.from_numpy(step.valid) for step in played.steps[1:]])
        errors = returns[0] - torch.stack(values)
        per_step = -chosen * returns[1] - self.loss.entropy_cost * entropies + self.loss.baseline_cost * 0.5 * errors**2
        found = torch.autograd.grad((per_step * valid).sum(), list(parameters.values()), retain_graph=True)
        gradient = torch.zeros_like(weights.vector)
        of = dict(zip(parameters, found, strict=True))
        for slot in self.slots:
            slot.view(gradient).copy_(of[slot.name])
        return Pass(gradient, cell, self.network)

    def _with_credit(self, before: CoreState) -> torch.Tensor:
        """``c_0``, which depends on the parameters as ``S_0`` says."""
        _, core = core_of(self.network)
        matrices, vectors = core.matrices - core.matrices.detach(), core.vectors - core.vectors.detach()
        credit = torch.einsum("bknd,knd->bn", before.sensitivity.matrices, matrices)
        return before.cell + credit + torch.einsum("bpn,pn->bn", before.sensitivity.vectors, vectors)

    def _step(self, observation: np.ndarray, reward: np.ndarray, is_first: np.ndarray, cell: torch.Tensor):
        gated, core = core_of(self.network)
        begins = torch.from_numpy(is_first)
        features = self.network.encoder(torch.from_numpy(observation).double())
        x = torch.cat([features, torch.from_numpy(reward).double().masked_fill(begins, 0)[:, None]], -1)
        cell = torch.where(begins[:, None], torch.zeros_like(cell), cell)
        cell = core.cell.forward(cell, torch.stack([x @ matrix.t() for matrix in core.matrices], dim=1), core.vectors)
        hidden = torch.sigmoid(gated.gate(torch.cat([x, cell], -1))) * cell
        return self.network.heads(hidden), cell

    def _returns(
        self, played: Played, ratios: torch.Tensor, values: torch.Tensor, followed: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets and advantages."""
        loss, clip = self.loss, self.loss.clip_ratio
        targets, advantages = values.clone(), torch.zeros_like(values)
        for b in range(values.shape[1]):
            excess = 0.0  # of the target of the step after, over its value
            for t in reversed(range(len(values))):
                after, ratio = played.steps[t + 1], float(ratios[t, b])
                if not after.valid[b]:
                    excess = 0.0
                    continue
                if after.terminated[b] or after.truncated[b]:
                    excess = 0.0
                following = 0.0 if after.terminated[b] else float(followed[t][b])
                error = float(after.reward[b]) + loss.discount * following - float(values[t, b])
                advantage = min(1.0, ratio) * (error + loss.discount * excess)
                excess = min(1.0, ratio) * (error + loss.discount * loss.trace_decay * excess)
                targets[t, b] += excess
                if clip is None or abs(ratio - 1) <= clip or (ratio - 1) * advantage < 0:
                    advantages[t, b] = advantage
        return targets, advantages


def play(actor: Actor, twin: CountingEnv, now: Timestep, weights: WeightsSnapshot) -> tuple[Any, Played]:
    """The first pass of an unroll."""
    before = carried.map_leaves(torch.clone, actor.rollout.core)
    contribution = actor.unroll(weights)
    actions = actor.rollout.unroll.actions.clone()
    steps = [now]
    for action in actions:
        steps.append(twin.step(action.numpy()))
    return contribution, Played(steps, actions, before)


@pytest.mark.parametrize("clip_ratio", [None, 0.02])
@pytest.mark.parametrize(("unroll", "activations"), [(1, "retain"), (5, "retain"), (5, "recompute")])
@pytest.mark.parametrize("habit", ["same_step", "next_step"])
def test_each_pass_is_the_gradient_of_the_oracle_under_its_own_weights(
    habit: Habit, unroll: int, activations: str, clip_ratio: float | None
):
    loss = LossConfig(clip_ratio=clip_ratio, trace_decay=0.9)
    env, twin = (CountingEnv(3, seed=1, habit=habit, lengths=(2, 9)) for _ in range(2))
    actor = make_actor(env, unroll=unroll, loss=loss, activations=activations, passes=3)
    now, version, clipped = twin.reset(), 0, 0
    for _ in range(10 // unroll):
        weights = other_weights(actor, version)
        contribution, played = play(actor, twin, now, weights)
        now = played.steps[-1]
        oracle = Oracle(actor, loss)
        expected = oracle.gradient(played, weights)
        for number in range(3):
            if number:
                version += 1
                weights = other_weights(actor, version)
                contribution, expected = actor.unroll(weights), oracle.gradient(played, weights)
                clipped += contribution.statistics.clip_ratio_exceeded or 0
            scale = expected.gradient.abs().max()
            torch.testing.assert_close(contribution.gradient / scale, expected.gradient / scale, rtol=0, atol=1e-9)
            assert contribution.header.policy_version == version
        version += 1
        _compare_carried(actor, expected)
    assert (clipped > 0) == (clip_ratio is not None)


def _compare_carried(actor: Actor, last: Pass) -> None:
    """State and sensitivity are those at the end, under the weights of the last pass."""
    torch.testing.assert_close(actor.rollout.core.cell, last.cells.detach(), rtol=0, atol=1e-9)
    _, core = core_of(last.network)
    for b, n in ((0, 0), (1, 3), (2, 5)):
        found = torch.autograd.grad(last.cells[b, n], (core.matrices, core.vectors), retain_graph=True)
        for mine, wanted in zip(actor.rollout.core.sensitivity, found, strict=True):
            of_unit = mine[b][..., n, :] if wanted.dim() == 3 else mine[b][..., n]
            of_oracle = wanted[..., n, :] if wanted.dim() == 3 else wanted[..., n]
            torch.testing.assert_close(of_unit, of_oracle, rtol=1e-9, atol=1e-9)


def contributions(actor: Actor, number: int, first_version: int = 0) -> list[Any]:
    """Of so many calls, each with weights of its own, which are the same for all actors."""
    start = actor.parameters.vector.clone()
    sent = []
    for version in range(first_version, first_version + number):
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(version))
        sent.append(actor.unroll(WeightsSnapshot(version, actor.layout, start + 0.05 * noise)))
        start = actor.parameters.vector - 0.05 * noise
    return sent


def test_steps_games_and_time_in_games_count_once_and_every_contribution_has_its_own_number():
    env = CountingEnv(4, seed=1)
    sent = contributions(make_actor(env, unroll=5, passes=3), 9)
    first, later = sent[::3], [one for number, one in enumerate(sent) if number % 3]
    assert [one.header.sequence for one in sent] == list(range(9))
    assert {one.header.num_segments for one in sent} == {4}
    assert sum(one.header.num_steps for one in sent) == len(env.ledger)
    assert all(one.header.num_steps and one.header.num_frames and one.statistics.losses_known for one in first)
    assert sum(len(one.statistics.episodes) for one in first) == sum(row[3] or row[4] for row in env.ledger)
    for one in later:
        statistics = one.statistics
        assert (one.header.num_steps, one.header.num_frames, statistics.episodes) == (0, 0, ())
        assert (statistics.env_time_s, statistics.losses_known) == (0.0, False)
        assert statistics.importance_steps > 0
        assert statistics.divergence_sum > 0
        assert statistics.learn_time_s > 0


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_an_actor_that_is_resumed_between_two_passes_goes_on_bit_for_bit(calls: int):
    straight = make_actor(TMaze(4, 3, corridor=5), unroll=4, passes=3)
    contributions(straight, calls)
    state = straight.get_state()
    assert state is not None
    assert ("kept" in state) == (calls < 3)
    resumed = make_actor(TMaze(4, 99, corridor=5), unroll=4, passes=3)
    resumed.parameters.load(straight.parameters.vector)
    resumed.set_state({**state, "now": {name: np.array(value) for name, value in state["now"].items()}})
    for ours, theirs in zip(contributions(straight, 7, 9), contributions(resumed, 7, 9), strict=True):
        assert torch.equal(ours.gradient, theirs.gradient)
        assert ours.header == theirs.header
        assert ours.statistics.policy_change_sum == theirs.statistics.policy_change_sum


def test_a_checkpoint_of_one_pass_is_gone_on_with_several_and_the_other_way_round():
    one, several = (make_actor(TMaze(4, 3, corridor=5), unroll=4, passes=passes) for passes in (1, 4))
    contributions(several, 1)
    contributions(one, 1)
    for saved, into in ((several, one), (one, several)):
        state = saved.get_state()
        assert state is not None
        into.set_state({**state, "now": {name: np.array(value) for name, value in state["now"].items()}})
        for contribution in contributions(into, 4, 9):
            assert contribution.gradient.isfinite().all()


@pytest.mark.parametrize("core", ["elstm", "slstm", "lru", "feedforward"])
def test_streams_in_groups_contribute_in_every_pass_what_they_contribute_without(core: str):
    def envs(*sizes: int) -> list[CountingEnv]:
        firsts = [sum(sizes[:number]) for number in range(len(sizes))]
        return [CountingEnv(size, 2, first_stream=first) for size, first in zip(sizes, firsts, strict=True)]

    whole = make_actor(envs(5), unroll=5, passes=3, core=core, greedy=True)
    parts = make_actor(envs(3, 2), unroll=5, passes=3, core=core, greedy=True)
    for ours, theirs in zip(contributions(whole, 9), contributions(parts, 9), strict=True):
        scale = ours.gradient.abs().max()
        torch.testing.assert_close(ours.gradient / scale, theirs.gradient / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("broken_pass", [0, 1, 2])
@pytest.mark.parametrize("rule", ["segment", "reference"])
def test_a_stream_whose_numbers_run_away_is_left_out_of_every_pass_and_begins_anew_after_the_last(
    rule: str, broken_pass: int
):
    actor = make_actor(EndlessEnv(STREAMS), unroll=4, passes=3, rule=rule, greedy=True)
    others = make_actor(EndlessEnv([0, 1, 3, 4]), unroll=4, passes=3, rule=rule, greedy=True)
    weights = present_weights(actor)
    for _ in range(3):
        actor.unroll(weights)
        others.unroll(weights)
    for number in range(3):
        if number == broken_pass:
            poison(actor, number)
        ours, theirs = actor.unroll(weights), others.unroll(weights)
        if number >= broken_pass:
            torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=1e-9, atol=1e-9)
        assert ours.statistics.streams_reset == (number == 2)
        if number:
            counted = 4 * (STREAMS - (number >= broken_pass))
            assert ours.statistics.importance_steps == counted
            assert ours.statistics.importance_sum == pytest.approx(counted)
            assert ours.statistics.divergence_sum == pytest.approx(0, abs=1e-9)
    assert actor.rollout.core.finite_streams().all()
    again = contributions(actor, 3, 1)
    assert all(one.gradient.isfinite().all() for one in again)
    assert sum(one.statistics.streams_reset for one in again) == 0


def poison(actor: Actor, number: int) -> None:
    """What one stream has carried into the unroll is not finite."""
    if number == 0:
        cell = actor.rollout.core.cell.clone()
        cell[BAD] = torch.nan
        actor.rollout.core = actor.rollout.core._replace(cell=cell)
        return
    assert actor._kept is not None
    actor._kept.trajectory.before.cell[BAD] = torch.nan


def test_a_policy_that_has_moved_is_told_of():
    actor = make_actor(CountingEnv(4, seed=1), unroll=5)
    same = present_weights(actor)
    assert actor.unroll(same).statistics.policy_change_streams == 0, "nothing was before"
    still = actor.unroll(same).statistics
    assert still.policy_change_streams == 4
    assert still.policy_change_sum == pytest.approx(0, abs=1e-12)
    moved = actor.unroll(other_weights(actor, 1, 0.5)).statistics
    assert moved.policy_change_sum > 1e-3


def test_a_stream_that_begins_anew_has_no_policy_before():
    actor = make_actor(EndlessEnv(STREAMS), unroll=3)
    weights = present_weights(actor)
    actor.unroll(weights)
    actor.rollout.begin_anew(torch.arange(STREAMS) == BAD)
    assert actor.unroll(weights).statistics.policy_change_streams == STREAMS - 1


def test_how_far_the_policy_has_moved_is_the_kl_divergence_on_average():
    torch.manual_seed(0)
    change, distribution = PolicyChange(), Categorical(4)
    before, now = torch.randn(2, 1, 4).expand(2, 200_000, 4)
    change.note(before)
    change.compare(distribution, now, distribution.sample(now, torch.Generator().manual_seed(1)))
    assert change.divergences is not None
    expected = (now[0].softmax(-1) * (now[0].log_softmax(-1) - before[0].log_softmax(-1))).sum()
    torch.testing.assert_close(change.divergences.mean(), expected, rtol=0.02, atol=0)
    assert (change.divergences >= 0).all()


@pytest.mark.parametrize("mode", ["sync", "lockstep", "async"])
def test_a_whole_run_learns_from_each_unroll_as_often_as_it_is_told_and_counts_its_steps_once(mode: str, tmp_path):
    words = [
        *("experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=2", "actors.num_envs=4"),
        *("actors.unroll=5", "network.num_units=8", "logging=quiet", "algorithm.options.passes=3", "total_steps=400"),
        *("loss.clip_ratio=0.2", f"learner.mode={mode}", f"run_dir={tmp_path}", "logging.interval_steps=100"),
    ]
    torch.set_default_dtype(torch.float32)  # as a program of its own has it
    assert rtrl_train(words) == 0
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 400 <= row["agent_steps"] <= 440
    unrolls = row["agent_steps"] / 20
    assert 3 * unrolls - 5 <= row["contributions_accepted"] <= 3 * unrolls + 1
    assert row["importance_kl"] >= 0
    assert 0 <= row["clip_ratio_exceeded_share"] <= 1
    assert row["policy_change_kl"] >= 0
    assert row["target_rms"] >= 0


def test_impala_clips_what_its_learner_has_moved_too_far(tmp_path):
    words = [
        *("experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=3", "actors.num_envs=4"),
        *("actors.unroll=5", "network.num_units=8", "logging=quiet", "algorithm=impala", "rule=tbptt"),
        *("total_steps=600", "learner.learning_rate=0.1", f"run_dir={tmp_path}", "logging.interval_steps=500"),
        *("learner.batch_segments=4", "loss.clip_ratio=0.001"),
    ]
    torch.set_default_dtype(torch.float32)
    assert rtrl_train(words) == 0
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert row["clip_ratio_exceeded_share"] > 0
    assert row["importance_kl"] > 0


def test_more_passes_and_a_refresh_do_not_go_together():
    config = load_train(["experiment=tmaze", "algorithm.options.passes=2", "rule.refresh=40", "rule.refresh_every=1"])
    with pytest.raises(ConfigError, match=r"leave rule.refresh=0, or passes=1"):
        find_algorithm(config.algorithm).require(config)


@pytest.mark.parametrize("passes", [0, 1001])
def test_a_number_of_passes_that_makes_no_sense_is_one_line(passes: int):
    with pytest.raises(ConfigError, match="passes must be from 1 to 1000"):
        find_algorithm(load_train(["experiment=tmaze", f"algorithm.options.passes={passes}"]).algorithm)
