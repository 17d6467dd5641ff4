"""Numbers that run away: the stream they are in begins anew and is counted, the others go on and their gradient is shipped."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from counting_env import CountingEnv
from endless_env import BAD, STREAMS, EndlessEnv
from toy_actor import core_of, make_actor, present_weights

from actors.actor import Actor
from conf.schema import NetworkConfig
from rtrl_core import CoreState, WeightsSnapshot, carried


def poison(actor: Actor, value: float) -> None:
    """What an overflow leaves in one stream."""
    cell = actor.rollout.core.cell.clone()
    cell[BAD] = value
    actor.rollout.core = actor.rollout.core._replace(cell=cell)


def is_finite(actor: Actor) -> bool:
    return bool(actor.rollout.core.finite_streams().all())


def without_bad(rule: str, unroll: int, **options) -> Actor:
    return make_actor(EndlessEnv([0, 1, 3, 4]), rule=rule, unroll=unroll, greedy=True, **options)


@pytest.mark.seconds
@pytest.mark.parametrize("unroll", [2, 5])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rule", ["segment", "reference"])
@pytest.mark.parametrize("activations", ["retain", "recompute"])
def test_the_gradient_of_the_other_streams_is_shipped_as_if_the_broken_one_were_not_there(
    activations: str, rule: str, value: float, unroll: int
):
    actor = make_actor(EndlessEnv(STREAMS), rule=rule, unroll=unroll, greedy=True, activations=activations)
    others = without_bad(rule, unroll, activations=activations)
    weights = present_weights(actor)
    for _ in range(3):
        actor.unroll(weights)
        others.unroll(weights)
    poison(actor, value)
    broken, clean = actor.unroll(weights), others.unroll(weights)
    assert (broken.statistics.streams_reset, clean.statistics.streams_reset) == (1, 0)
    torch.testing.assert_close(broken.gradient, clean.gradient, rtol=1e-4, atol=1e-6)
    assert broken.statistics.value_loss == pytest.approx(clean.statistics.value_loss, rel=1e-5)
    assert is_finite(actor)
    again = actor.unroll(weights)  # the stream that was broken takes part again, from a state of zero
    assert again.statistics.streams_reset == 0
    assert again.gradient.isfinite().all()
    assert actor.rollout.core.cell[BAD].any()


@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e19])
@pytest.mark.parametrize("rule", ["segment", "reference"])
def test_a_sensitivity_that_runs_away_is_begun_anew_before_any_gradient_is_made_of_it(
    rule: str, value: float, unroll: int, monkeypatch: pytest.MonkeyPatch
):
    actor, other = (make_actor(EndlessEnv(STREAMS), rule=rule, unroll=unroll, greedy=True) for _ in range(2))
    weights = present_weights(actor)
    for each in (actor, other):
        each.unroll(weights)

    def overflow(state: CoreState) -> None:
        type(actor.network.core).settle(actor.network.core, state)
        state.sensitivity.matrices[BAD] = value

    monkeypatch.setattr(actor.network.core, "settle", overflow)
    broken, clean = actor.unroll(weights), other.unroll(weights)
    monkeypatch.undo()
    assert torch.equal(broken.gradient, clean.gradient)
    assert (broken.statistics.streams_reset, clean.statistics.streams_reset) == (1, 0)
    again = actor.unroll(weights)
    assert again.gradient.isfinite().all()
    assert again.statistics.streams_reset == 0


@pytest.mark.seconds
@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("rule", ["segment", "reference", "tbptt"])
@pytest.mark.parametrize("last_action", [False, True])
def test_an_observation_that_is_no_number_is_over_with_the_unrolls_that_saw_it(
    last_action: bool, rule: str, unroll: int
):
    network = NetworkConfig(encoder="mlp", mlp_sizes=[8], features=5, num_units=6, last_action=last_action)
    actor = make_actor(EndlessEnv(STREAMS, nan_at=9), rule=rule, unroll=unroll, network=network)
    weights = present_weights(actor)
    sent = [actor.unroll(weights) for _ in range(24 // unroll)]
    finite = [bool(contribution.gradient.isfinite().all()) for contribution in sent]
    # The stem saw it too, which knows no streams: the whole contribution is for the learner to refuse. A single step is bootstrapped
    # from what the next one sees, so there it is two of them.
    saw_it = 2 if unroll == 1 else 1
    spoilt = finite.count(False)
    assert 1 <= spoilt <= saw_it
    assert all(finite[finite.index(False) + spoilt :])
    assert 1 <= sum(contribution.statistics.streams_reset for contribution in sent) <= saw_it
    assert is_finite(actor)


@pytest.mark.seconds
@pytest.mark.parametrize(("rule", "unroll"), [("segment", 1), ("reference", 3)])
def test_a_chaotic_core_is_shown_growing_and_never_sends_what_is_not_finite(rule: str, unroll: int):
    actor = make_actor(EndlessEnv(STREAMS), rule=rule, unroll=unroll)
    _, core = core_of(actor.network)
    with torch.no_grad():  # Lyapunov exponent above zero: the sensitivity grows by itself, for ever
        core.matrices.mul_(0.1)
        for row, value in enumerate((8.0, -14.0, -1.58, 0.3)):
            core.vectors[row] = value
    weights = present_weights(actor)
    sent = [actor.unroll(weights) for _ in range(300 // unroll)]
    assert all(contribution.gradient.isfinite().all() for contribution in sent)
    largest = [contribution.statistics.sensitivity_norm_max for contribution in sent]
    resets = [contribution.statistics.streams_reset for contribution in sent]
    first = next(index for index, count in enumerate(resets) if count)
    assert max(largest[:first]) > 1e6, "the metric says so before anything is reset"
    assert np.isfinite(largest).all()
    assert is_finite(actor)


def test_where_no_stream_is_left_the_learner_is_told():
    actor = make_actor(EndlessEnv(STREAMS), unroll=3)
    weights = present_weights(actor)
    actor.parameters.vector.fill_(float("nan"))
    contribution = actor.unroll(WeightsSnapshot(1, weights.layout, actor.parameters.vector.clone()))
    assert not contribution.gradient.isfinite().all()
    assert contribution.statistics.streams_reset == STREAMS
    assert is_finite(actor)


def test_rows_of_one_stream_are_those_of_that_stream():
    actor = make_actor(CountingEnv(num_envs=4, seed=3), unroll=5)
    actor.unroll(present_weights(actor))
    some = torch.tensor([True, False, False, True])
    part = actor.rollout.unroll.of(some)
    whole = actor.rollout.unroll
    for name in (spec.name for spec in fields(whole) if spec.name != "before"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, some]), name
    ours, theirs = list(carried.leaves(part.before)), list(carried.leaves(whole.before))
    assert len(ours) == 3
    assert all(torch.equal(a, b[some]) for a, b in zip(ours, theirs, strict=True))
    assert part.num_envs == 2
