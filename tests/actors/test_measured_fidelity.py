"""What older weights and the learning rule have spoilt of the credit for the past is measured while training, and nothing else changes."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_actor import core_of, make_actor, present_weights
from toy_parts import DenseCell

import actors.base_actor
from actors.actor import Actor
from actors.build import build_seeded_network
from conf.load import load_train
from conf.schema import NetworkConfig, RuleConfig
from envs.tmaze import TMaze
from r2ac.commands import train as training_program
from rtrl_core import WeightsSnapshot, actor_critic_losses, carried, vtrace

STREAMS, UNROLL = 3, 3


def env(seed: int = 4) -> TMaze:
    """Games of nine steps: three unrolls, or parts of four."""
    return TMaze(STREAMS, seed, corridor=7)


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.base_actor, "build_seeded_network", lambda *args: build_seeded_network(*args).double())


def moving(actor: Actor, version: int, size: float = 0.01) -> WeightsSnapshot:
    """The same step for the same version."""
    start = present_weights(actor, version)
    noise = torch.randn(start.vector.shape, generator=torch.Generator().manual_seed(version), dtype=start.vector.dtype)
    return WeightsSnapshot(version, start.layout, start.vector + size * noise)


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize("core", ["elstm", "mingru"])
def test_under_weights_that_stand_still_the_carried_sensitivity_is_the_fresh_one(core: str):
    actor = make_actor(env(), unroll=UNROLL, core=core, fidelity_every=1)
    weights = present_weights(actor)
    measured = [actor.unroll(weights).statistics for _ in range(15)]
    errors = [part.sensitivity_fidelity_error for part in measured if part.sensitivity_fidelity_error is not None]
    cosines = [part.sensitivity_fidelity_cosine for part in measured if part.sensitivity_fidelity_cosine is not None]
    assert len(errors) == len(cosines) > 5
    assert max(errors) < 1e-9
    assert min(cosines) > 1 - 1e-9
    assert all(part.rule_fidelity_error is None for part in measured)


@pytest.mark.usefixtures("_in_float64")
def test_under_weights_that_move_it_is_what_autograd_through_the_episode_says():
    actor = make_actor(env(), unroll=UNROLL, fidelity_every=1)
    probe = actor._probe
    assert probe is not None
    inputs: list[torch.Tensor] = []
    first: list[torch.Tensor] = []
    compared = 0
    for version in range(14):
        stream = probe._stream
        carried_before = carried.map_leaves(torch.clone, actor.rollout.core)
        statistics = actor.unroll(moving(actor, version)).statistics
        inputs.append(actor.rollout.unroll.inputs.double())
        first.append(actor.rollout.unroll.is_first.clone())
        if statistics.sensitivity_fidelity_error is None:
            continue
        assert stream is not None
        error, cosine = oracle(actor, stream, torch.cat(inputs)[:, stream], torch.cat(first)[:, stream], carried_before)
        assert statistics.sensitivity_fidelity_error == pytest.approx(error, rel=1e-5)
        assert statistics.sensitivity_fidelity_cosine == pytest.approx(cosine, rel=1e-9)
        compared += statistics.sensitivity_fidelity_error > 1e-3
    assert compared > 3


def oracle(actor: Actor, stream: int, inputs, first, before) -> tuple[float, float]:
    """Backpropagation through the whole episode, with the carried state's value at the start of the last unroll."""
    gated, core = core_of(actor.network)
    rows, now = actor.rollout.unroll, len(inputs) - UNROLL
    start = int(first[:now].nonzero().max())
    assert not first[now]

    def after(state, steps):
        for x, begins in steps:
            state = torch.where(begins, torch.zeros_like(state), state)
            state = core.cell.forward(state, (core.matrices @ x)[None], core.vectors)
            yield state

    parameters = list(core.parameters())
    *_, fresh = after(torch.zeros(1, 6, dtype=torch.float64), zip(inputs[start:now], first[start:now], strict=True))
    c0 = before.cell[stream : stream + 1]
    history = c0 + fresh - fresh.detach()
    leaf = c0.clone().requires_grad_()

    def loss(state):
        cells = torch.stack(list(after(state, zip(inputs[now:], first[now:], strict=True))))
        hidden = torch.sigmoid(gated.gate(torch.cat([inputs[now:, None], cells], -1))) * cells
        logits, values = actor.network.policy_head(hidden), actor.network.value_head(hidden).squeeze(-1)
        only = slice(stream, stream + 1)
        returns = vtrace(
            log_ratios=torch.zeros_like(rows.values[:, only]),
            rewards=rows.rewards[:, only],
            values=values.detach(),
            next_values=rows.next_values[:, only],
            terminated=rows.terminated[:, only],
            truncated=rows.truncated[:, only],
            valid=rows.valid[:, only],
            discount=0.99,
        )
        return actor_critic_losses(
            distribution=actor.network.distribution,
            parameters=logits,
            values=values,
            actions=rows.actions[:, only],
            returns=returns,
            valid=rows.valid[:, only],
            entropy_cost=0.01,
            baseline_cost=0.5,
        ).total

    whole = torch.autograd.grad(loss(history), parameters)
    *inside, lam = torch.autograd.grad(loss(leaf), [*parameters, leaf])
    wanted = torch.cat([(a - b).flatten() for a, b in zip(whole, inside, strict=True)])
    matrices, vectors = before.sensitivity.matrices[stream], before.sensitivity.vectors[stream]
    found = torch.cat([(lam[0, :, None] * matrices).flatten(), (lam * vectors).flatten()])
    return float((found - wanted).norm() / wanted.norm()), float(found @ wanted / found.norm() / wanted.norm())


@pytest.mark.seconds
@pytest.mark.usefixtures("_in_float64")
def test_a_rule_that_is_not_exact_is_compared_with_one_that_is():
    network = NetworkConfig(encoder="mlp", mlp_sizes=[4], features=2, core="toy_parts:DenseCell", num_units=2)
    rule = RuleConfig("toy_parts:FullRTRL", {"scale": 0.5})
    actor = make_actor(env(), unroll=UNROLL, network=network, rule_config=rule, fidelity_every=2)
    assert isinstance(actor.network.core.cell, DenseCell)
    weights = present_weights(actor)
    found = [s for s in (actor.unroll(weights).statistics for _ in range(5)) if s.rule_fidelity_error is not None]
    assert found
    for statistics in found:
        assert statistics.sensitivity_fidelity_error == pytest.approx(0, abs=1e-9)
        assert statistics.rule_fidelity_error == pytest.approx(0.5)
        assert statistics.rule_fidelity_cosine == pytest.approx(1)


@pytest.mark.parametrize(
    ("rule", "core", "every"), [("tbptt", "elstm", 1), ("segment", "feedforward", 1), ("segment", "elstm", 0)]
)
def test_where_nothing_is_carried_or_asked_for_nothing_is_measured(rule: str, core: str, every: int):
    actor = make_actor(env(), unroll=UNROLL, rule=rule, core=core, fidelity_every=every)
    assert actor._probe is None
    weights = present_weights(actor)
    assert all(actor.unroll(weights).statistics.sensitivity_fidelity_error is None for _ in range(8))


@pytest.mark.parametrize(
    "rule", [RuleConfig("segment"), RuleConfig("segment", refresh=6, refresh_every=2)], ids=["", "refresh"]
)
def test_measuring_changes_no_number_of_what_is_shipped(rule: RuleConfig):
    shipped = []
    for every in (0, 1):
        torch.manual_seed(7)
        actor = make_actor(env(), unroll=UNROLL, rule_config=rule, fidelity_every=every)
        shipped.append([actor.unroll(moving(actor, version)).gradient.clone() for version in range(12)])
        drawn = torch.rand(())
        shipped[-1].append(drawn)
    assert all(map(torch.equal, *shipped))


def test_a_longer_episode_than_is_kept_is_not_followed_and_a_shorter_one_is():
    short = make_actor(env(), unroll=UNROLL, fidelity_every=1, fidelity_steps=4)
    weights, ages = present_weights(short), []
    for _ in range(14):
        filled = short._probe._filled if short._probe and short._probe._stream is not None else None
        if short.unroll(weights).statistics.sensitivity_fidelity_error is not None:
            ages.append(filled)
    assert ages
    assert max(ages) <= 4
    none = make_actor(env(), unroll=UNROLL, fidelity_every=1, fidelity_steps=1)
    measured = [none.unroll(weights).statistics.sensitivity_fidelity_error for _ in range(14)]
    assert sum(value is not None for value in measured) < len(ages)


def test_a_stream_that_begins_anew_inside_its_episode_is_not_followed_any_further():
    actor = make_actor(env(), unroll=UNROLL, fidelity_every=1)
    weights, probe = present_weights(actor), actor._probe
    assert probe is not None
    actor.unroll(weights)
    assert probe._stream is not None
    everyone_else = torch.ones(STREAMS, dtype=torch.bool)
    everyone_else[probe._stream] = False
    probe.forget(everyone_else)
    assert probe._stream is not None
    probe.forget(~everyone_else)
    assert probe._stream is None


@pytest.mark.parametrize("refresh", [0, 6])
def test_an_actor_goes_on_bit_for_bit_and_follows_another_stream(refresh: int):
    rule = RuleConfig("segment", refresh=refresh, refresh_every=2)

    def fresh_actor(seed: int) -> Actor:
        return make_actor(env(seed), unroll=UNROLL, rule_config=rule, fidelity_every=1)

    straight = fresh_actor(4)
    for version in range(5):
        straight.unroll(moving(straight, version))
    state = straight.get_state()
    assert state is not None
    resumed = fresh_actor(9)
    resumed.unroll(present_weights(resumed))
    state = deepcopy(state)  # as a checkpoint is: what is carried has its memory used anew
    resumed.set_state({**state, "now": {name: np.array(value) for name, value in state["now"].items()}})
    assert resumed._probe is not None
    assert resumed._probe._stream is None
    for version in range(5, 9):
        weights = moving(straight, version)
        assert torch.equal(straight.unroll(weights).gradient, resumed.unroll(weights).gradient)


@pytest.mark.seconds
def test_a_run_logs_it(tmp_path: Path):
    words = [
        *(
            "experiment=tmaze",
            "env.corridor=6",
            "fleet=local",
            "fleet.num_actors=1",
            "actors.num_envs=4",
            "logging=quiet",
        ),
        *(
            "actors.unroll=3",
            "network.num_units=6",
            "total_steps=360",
            "actors.fidelity_every=3",
            "logging.interval_steps=120",
        ),
        *("rule.refresh=6", "rule.refresh_every=2", "learner.mode=sync", f"run_dir={tmp_path}/run"),
    ]
    assert load_train(words).rule.refresh == 6
    assert training_program.main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    errors = [row["sensitivity_fidelity_error"] for row in rows if row["sensitivity_fidelity_error"] is not None]
    assert errors
    assert all(0 <= error < 1 for error in errors)
    assert all(row["rule_fidelity_cosine"] is None for row in rows)
