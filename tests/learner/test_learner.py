"""The learner: batches, lag, duplicates, refusals, updates, and its state."""

import math

import pytest
import torch
from contributions import LAYOUT, contribution
from empty_statistics import no_statistics
from torch import nn

from conf.schema import LearnerConfig
from learner.learner import GradientPlan, Learner
from learner.receipts import Counters, Verdict
from rtrl_core import ContributionHeader, GradientContribution, ParameterLayout, UnrollStatistics


def make_learner(batch_segments: int = 4, total_steps: int = 1000, **options) -> Learner:
    return GradientPlan(LearnerConfig(**options), LAYOUT, batch_segments, total_steps).begin(torch.zeros(LAYOUT.size))


def test_it_updates_when_a_batch_of_segments_is_complete():
    learner = make_learner(batch_segments=8)
    assert learner.add(contribution(sequence=0)).update is None
    receipt = learner.add(contribution(sequence=1))
    assert receipt.update is not None
    assert (
        receipt.counters.version,
        receipt.counters.updates,
        receipt.counters.agent_steps,
        receipt.counters.frames,
    ) == (1, 1, 20, 80)
    assert learner.snapshot().version == 1


def test_a_batch_that_has_begun_ends_at_the_size_that_the_fleet_has_by_then():
    learner = make_learner(batch_segments=8, max_lag=0)
    assert learner.add(contribution(sequence=0)).update is None
    learner.resize(12, 1)
    assert learner.add(contribution(sequence=1)).update is None
    assert learner.add(contribution(sequence=2)).update is not None
    assert learner.add(contribution(sequence=3)).verdict is Verdict.ACCEPTED, "one version late"
    learner.resize(4, 0)
    assert learner.add(contribution(sequence=4, version=1)).update is not None
    assert learner.add(contribution(sequence=5, version=1)).verdict is Verdict.DROPPED


def test_contributions_add_up_whoever_sends_them():
    one, two = make_learner(batch_segments=8), make_learner(batch_segments=8)
    one.add(contribution(3.0, segments=8, steps=20))
    two.add(contribution(1.0, actor=0))
    two.add(contribution(2.0, actor=1))
    assert torch.equal(one.snapshot().vector, two.snapshot().vector)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_the_update_is_the_papers(optimizer: str):
    learner = make_learner(optimizer=optimizer, learning_rate=0.1, clip_norm=0.0)
    for step in range(3):
        learner.add(contribution(2.0, sequence=step, version=step, steps=1))
    weight, square, first = 0.0, 0.0, 0.0
    for step in range(1, 4):
        rate = 0.1 * (1 - step / 1000)
        if optimizer == "rmsprop":
            square = 0.99 * square + 0.01 * 4.0
            weight -= rate * 2.0 / (math.sqrt(square) + 0.01)
        else:
            first, square = 0.9 * first + 0.1 * 2.0, 0.999 * square + 0.001 * 4.0
            weight -= rate * (first / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)
    assert float(LAYOUT.slots[0].view(learner.snapshot().vector)[0, 0]) == pytest.approx(weight, rel=1e-4)


def test_the_gradient_is_clipped_by_its_global_norm_and_reported_before():
    clipped, small = make_learner(clip_norm=1.0), make_learner(clip_norm=1.0)
    receipt = clipped.add(contribution(1000.0))
    numbers = sum(slot.size for slot in LAYOUT.slots)
    assert receipt.update is not None
    assert receipt.update.gradient_norm == pytest.approx(1000.0 * math.sqrt(numbers), rel=1e-5)
    assert math.hypot(*receipt.update.part_norms.values()) == pytest.approx(receipt.update.gradient_norm)
    small.add(contribution(1 / math.sqrt(numbers)))
    torch.testing.assert_close(clipped.snapshot().vector, small.snapshot().vector)


def test_a_parameter_of_any_name_counts_in_the_norm_and_is_clipped():
    layout = ParameterLayout.of(nn.ModuleDict({"encoder": nn.Linear(3, 4), "auxiliary_head": nn.Linear(4, 2)}))
    slots = {slot.name: slot for slot in layout.slots}
    plan = GradientPlan(LearnerConfig(clip_norm=1.0, optimizer="adam", adam_epsilon=1e6), layout, 4, 1000)
    moved = {}
    for value in (100.0, 0.1):
        learner = plan.begin(torch.zeros(layout.size))
        gradient = torch.zeros(layout.size)
        slots["auxiliary_head.weight"].view(gradient).fill_(value)
        header = ContributionHeader(0, 0, 0, 0, 10, 40, 4)
        receipt = learner.add(GradientContribution(header, layout.fingerprint, gradient, no_statistics()))
        assert receipt.update is not None
        assert receipt.update.gradient_norm == pytest.approx(8**0.5 * value)
        assert receipt.update.part_norms == pytest.approx({"stem": 0, "core": 0, "heads": 8**0.5 * value})
        moved[value] = slots["auxiliary_head.weight"].view(learner.snapshot().vector).norm()
    # With an epsilon this large Adam's step is proportional to the gradient, so it shows what clipping left of it.
    assert moved[100.0] / moved[0.1] == pytest.approx(1 / (8**0.5 * 0.1), rel=1e-3)


def test_a_finite_gradient_has_a_finite_norm():
    learner = make_learner(clip_norm=1.0, learning_rate=0.1)
    receipt = learner.add(contribution(1e30))
    assert receipt.update is not None
    number = sum(slot.size for slot in LAYOUT.slots)
    assert receipt.update.gradient_norm == pytest.approx(1e30 * number**0.5)
    assert learner.snapshot().vector.isfinite().all()
    assert learner.snapshot().vector.any()


def test_the_learning_rate_falls_linearly_in_agent_steps():
    learner = make_learner(total_steps=40, learning_rate=0.4, final_learning_rate=0.2)
    rates = []
    for step in range(5):
        update = learner.add(contribution(sequence=step, version=step)).update
        assert update is not None
        rates.append(update.learning_rate)
    assert rates == pytest.approx([0.35, 0.3, 0.25, 0.2, 0.2])


@pytest.mark.parametrize(
    ("rule", "verdict", "counted"),
    [("accept", Verdict.ACCEPTED, True), ("damp", Verdict.DAMPED, True), ("drop", Verdict.DROPPED, False)],
)
def test_a_late_contribution_is_treated_as_the_rule_says(rule, verdict, counted):
    learner = make_learner(max_lag=2, lag_rule=rule)
    for step in range(5):
        learner.add(contribution(0.0, sequence=step, version=step))
    before = learner.counters.agent_steps
    receipt = learner.add(contribution(1.0, actor=1, version=1))
    assert (receipt.verdict, receipt.lag) == (verdict, 4)
    assert (learner.counters.agent_steps > before) is counted
    in_time = learner.add(contribution(1.0, actor=2, version=learner.counters.version - 2))
    assert in_time.verdict is Verdict.ACCEPTED


def test_damping_divides_by_the_excess():
    damped, plain = make_learner(max_lag=0, lag_rule="damp", clip_norm=0.0), make_learner(clip_norm=0.0)
    damped.add(contribution(0.0))
    plain.add(contribution(0.0))
    damped.add(contribution(2.0, sequence=1, version=0))  # one version late: half
    plain.add(contribution(1.0, sequence=1, version=0))
    assert torch.equal(damped.snapshot().vector, plain.snapshot().vector)


def test_nothing_is_applied_twice():
    learner = make_learner()
    learner.add(contribution(sequence=3))
    before = learner.snapshot().vector
    for repeated in (contribution(sequence=3), contribution(sequence=2)):
        receipt = learner.add(repeated)
        assert receipt.verdict is Verdict.DROPPED
        assert "came twice" in receipt.reason
    assert torch.equal(learner.snapshot().vector, before)
    assert learner.add(contribution(sequence=0, incarnation=1)).verdict is Verdict.ACCEPTED
    assert learner.add(contribution(sequence=9, incarnation=0)).verdict is Verdict.DROPPED


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_contribution_that_is_not_finite_is_refused_counted_and_named(poison, dtype):
    learner = make_learner()
    bad = contribution(actor=7, incarnation=2, sequence=5, dtype=dtype)
    LAYOUT.slots[2].view(bad.gradient)[1, 2] = poison
    receipt = learner.add(bad)
    assert receipt.verdict is Verdict.REFUSED
    assert "contribution 5 of actor 7 (start 2) is not finite in core.weight" in receipt.reason
    assert (learner.counters.refused, learner.counters.agent_steps, learner.counters.version) == (1, 0, 0)
    assert not learner.snapshot().vector.any()


def test_a_contribution_of_another_network_is_refused():
    alien = GradientContribution(contribution().header, "elsewhere", torch.ones(LAYOUT.size), no_statistics())
    receipt = make_learner().add(alien)
    assert receipt.verdict is Verdict.REFUSED
    assert "is of network elsewhere" in receipt.reason


def test_a_learner_goes_on_bit_for_bit_from_its_state():
    straight = make_learner(batch_segments=8)
    for step in range(5):
        straight.add(contribution(float(step + 1), sequence=step, version=step // 2))
    resumed = GradientPlan(LearnerConfig(), LAYOUT, 8, 1000).resume(straight.get_state())
    for step in range(5, 9):
        for learner in (straight, resumed):
            learner.add(contribution(float(step), sequence=step, version=step // 2))
    assert torch.equal(straight.snapshot().vector, resumed.snapshot().vector)
    assert straight.counters == resumed.counters


def test_after_a_failure_versions_go_on_and_what_the_lost_learner_was_sent_is_dropped():
    learner = make_learner()
    state, last = learner.get_state(), learner.counters
    for step in range(3):
        last = learner.add(contribution(sequence=step, version=step)).counters
    restarted = GradientPlan(LearnerConfig(), LAYOUT, 4, 1000).resume(state)
    restarted.continue_from(last)
    assert restarted.snapshot().version == 4
    assert restarted.counters.agent_steps == 30
    late = restarted.add(contribution(sequence=3, version=3))
    assert late.verdict is Verdict.DROPPED
    assert "lost with a failed learner" in late.reason
    assert restarted.add(contribution(sequence=4, version=4)).verdict is Verdict.ACCEPTED
    assert isinstance(restarted.counters, Counters)


def test_statistics_come_back_with_the_receipt():
    sent = contribution()
    receipt = make_learner().add(sent)
    assert receipt.header == sent.header
    assert isinstance(receipt.statistics, UnrollStatistics)
