"""The learner of streaming: it keeps weights that lead on from its own, and refuses others in words."""

from dataclasses import replace
from typing import Any

import torch
from empty_statistics import no_statistics

from conf.schema import LearnerConfig
from learner.receipts import Counters, Verdict
from learner.stream_learner import StreamLearner, StreamPlan
from rtrl_core import ContributionHeader, NetworkSpec, ParameterLayout, PolicyNetwork, WeightsContribution
from rtrl_core.policies import Categorical

LAYOUT = ParameterLayout.of(
    PolicyNetwork(
        NetworkSpec((3,), "vector", Categorical(2), encoder="mlp", features=4, num_units=2, scale_rewards=True)
    )
)


def make_learner() -> StreamLearner:
    return StreamLearner(LAYOUT, torch.zeros(LAYOUT.size))


def arrived(weights: float | torch.Tensor, version: int = 0, sequence: int = 0, **changes: Any) -> WeightsContribution:
    header = ContributionHeader(0, 0, sequence, version, num_steps=20, num_frames=80, num_segments=1)
    vector = weights if isinstance(weights, torch.Tensor) else torch.full((LAYOUT.size,), weights)
    contribution = WeightsContribution(header, LAYOUT.fingerprint, vector, 0.25, no_statistics())
    return replace(contribution, **changes)


def test_the_round_ends_with_exactly_the_weights_that_were_sent():
    learner, weights = make_learner(), torch.randn(LAYOUT.size)
    receipt = learner.add(arrived(weights))
    assert receipt.verdict is Verdict.ACCEPTED
    assert receipt.update is None
    assert not learner.snapshot().vector.any()
    update = learner.finish_round().update
    assert update is not None
    assert update.learning_rate == 0.25
    assert torch.equal(learner.snapshot().vector, weights)
    assert (learner.snapshot().version, learner.counters.agent_steps, learner.counters.frames) == (1, 20, 80)
    assert learner.finish_round().update is None
    assert learner.snapshot().version == 1


def test_norms_are_those_of_the_change_less_that_of_the_moments():
    learner, weights = make_learner(), torch.zeros(LAYOUT.size)
    for name, value in (("core.core.vectors", 3.0), ("policy_head.bias", 4.0), ("running.returns.pairs", 100.0)):
        slot = next(slot for slot in LAYOUT.slots if slot.name == name)
        slot.view(weights).flatten()[0] = value
    learner.add(arrived(weights))
    update = learner.finish_round().update
    assert update is not None
    assert update.part_norms == {"stem": 0.0, "core": 3.0, "heads": 4.0}
    assert update.gradient_norm == 5.0


def test_what_does_not_lead_on_from_its_weights_is_left_out_with_a_reason():
    learner = make_learner()
    learner.add(arrived(1.0))
    second = learner.add(arrived(2.0, sequence=1))
    assert second.verdict is Verdict.DROPPED
    assert "one actor and no lag" in second.reason
    learner.finish_round()
    assert learner.snapshot().vector.unique().tolist() == [1.0]
    assert learner.add(arrived(3.0, version=0, sequence=2)).verdict is Verdict.DROPPED
    assert learner.add(arrived(3.0, version=1, sequence=2)).reason.endswith("came twice")
    broken = torch.ones(LAYOUT.size)
    broken[0] = torch.nan
    refused = learner.add(arrived(broken, version=1, sequence=3))
    assert refused.verdict is Verdict.REFUSED
    assert refused.reason.endswith(f"is not finite, or too large, in {LAYOUT.slots[0].name}")
    assert learner.add(arrived(3.0, version=1, sequence=4, layout="other")).verdict is Verdict.REFUSED
    assert learner.finish_round().update is None
    assert (learner.counters.accepted, learner.counters.dropped, learner.counters.refused) == (1, 3, 2)
    assert learner.add(arrived(3.0, version=1, sequence=5)).verdict is Verdict.ACCEPTED


def test_after_a_failure_it_takes_nothing_that_began_with_lost_weights():
    learner = make_learner()
    learner.continue_from(Counters(version=4))
    assert learner.add(arrived(1.0, version=4)).verdict is Verdict.DROPPED
    assert learner.add(arrived(1.0, version=5, sequence=1)).verdict is Verdict.ACCEPTED


def test_it_goes_on_from_its_state():
    learner = make_learner()
    learner.add(arrived(1.5))
    learner.finish_round()
    again = StreamPlan(LearnerConfig(), LAYOUT).resume(learner.get_state())
    assert torch.equal(again.snapshot().vector, learner.snapshot().vector)
    assert again.counters == learner.counters
    assert again.add(arrived(1.0, version=1)).reason.endswith("came twice")
