"""Sums of gradients: exact in any order where runs repeat, judged one by one where they are added up, and as a whole at the learner."""

import itertools
import math
import pickle
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from contributions import LAYOUT, contribution
from hypothesis import given
from hypothesis import strategies as st
from patience import patience

from actors.fleet import FinishedUnroll, FleetState, LocalFleet, Restarts
from actors.wire import split
from conf.load import load_train
from conf.schema import LearnerConfig
from learner import ray_learner
from learner.aggregated_fleet import spread
from learner.aggregator import Aggregator, Order
from learner.learner import GradientPlan, Learner
from learner.receipts import Counters, Receipt, Verdict
from learner.stream_learner import StreamPlan
from learner.sums import Adder, ExactSum, GradientSum, RunningSum
from r2ac.training.fleets import open_fleet
from r2ac.training.sizing import sized
from rtrl_core import GradientContribution

Contributions = Sequence[GradientContribution]
float32 = st.builds(math.ldexp, st.integers(-(2**24), 2**24), st.integers(-54, 6))
"""Numbers of single precision; Hypothesis's own need a processor that keeps subnormal ones, which a test before may have turned off."""


def plan(batch_segments: int | None = 4, **options: Any) -> GradientPlan:
    return GradientPlan(
        LearnerConfig(**options, mode="sync" if batch_segments is None else "async"), LAYOUT, batch_segments, 1000
    )


def begun(plan: GradientPlan) -> Learner:
    return plan.begin(torch.zeros(LAYOUT.size))


def summed(plan: GradientPlan, contributions: Contributions, version: int = 0) -> GradientSum:
    adder = plan.adder()
    for one in contributions:
        adder.add(one, version)
    return adder.take()


def random_contributions(count: int, **named: Any) -> list[GradientContribution]:
    generator = torch.Generator().manual_seed(0)
    return [
        replace(contribution(actor=actor, **named), gradient=torch.randn(LAYOUT.size, generator=generator))
        for actor in range(count)
    ]


@given(st.lists(float32, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_an_exact_sum_is_the_same_in_any_order_and_in_any_groups_and_rounded_once(numbers: list[float], chance: Any):
    expected = torch.tensor([math.fsum(numbers)], dtype=torch.float64).float()
    shuffled = chance.sample(numbers, len(numbers))
    cut = chance.randint(0, len(numbers))
    whole = ExactSum(torch.zeros(1))
    for group in (shuffled[:cut], shuffled[cut:]):
        part = ExactSum(torch.zeros(1))
        for number in group:
            part.add(torch.tensor([number]), 1.0)
        whole.add_sum(GradientSum("", 0, (), *part.parts()), 1.0)
    assert torch.equal(whole.vector(), expected)


def test_an_exact_sum_of_a_long_vector_is_that_of_its_numbers():
    vectors = [torch.randn(100_001) * 10.0**power for power in range(-3, 4)]
    total = ExactSum(torch.zeros(100_001))
    for vector in vectors:
        total.add(vector, 1.0)
    assert torch.equal(total.vector(), torch.stack(vectors).double().sum(0).float())
    total.clear()
    assert not total.vector().any()
    total.set(vectors[0])
    assert torch.equal(total.vector(), vectors[0])


def test_what_is_added_up_on_the_way_makes_the_weights_that_each_by_itself_would_and_the_same_receipts():
    for batch_segments, tolerance in ((4 * 6, 1e-6), (None, 0.0)):
        one, many = (begun(plan(batch_segments, learning_rate=0.1)) for _ in range(2))
        for version in range(3):
            contributions = [
                *random_contributions(5, version=version, sequence=version),
                contribution(math.nan, version=version, actor=5, sequence=version),
                contribution(2.0, version=version, actor=6, sequence=version, dtype=torch.bfloat16),
            ]
            of_each = [many.add(part) for part in contributions]
            of_sums: list[Receipt] = []
            for part in (contributions[:4], contributions[4:]):
                of_sums += one.add_sum(summed(plan(batch_segments), part, version))
            if batch_segments is None:
                of_each, of_sums = (
                    learner.finish_round().noted_in(receipts) for learner, receipts in ((many, of_each), (one, of_sums))
                )
            for ours, theirs in zip(of_sums, of_each, strict=True):
                assert (ours.header, ours.verdict, ours.lag) == (theirs.header, theirs.verdict, theirs.lag)
                assert ours.reason == theirs.reason
            assert [ours.update is None for ours in of_sums] == [True] * 6 + [False]
            assert of_sums[-1].counters.version == version + 1
            size = 4 * (LAYOUT.size if batch_segments else 4 * LAYOUT.size)
            assert of_sums[-1].counters.wire_bytes == (version + 1) * 2 * size
            assert replace(of_sums[-1].counters, wire_bytes=0) == replace(of_each[-1].counters, wire_bytes=0)
            torch.testing.assert_close(one.snapshot().vector, many.snapshot().vector, rtol=tolerance, atol=tolerance)
            if not tolerance:
                assert torch.equal(one.snapshot().vector, many.snapshot().vector)


def test_a_sum_is_judged_one_by_one_where_it_is_made():
    adder = plan(max_lag=2, lag_rule="drop").adder()
    adder.add(contribution(1.0, actor=0, version=3), 5)
    adder.add(contribution(2.0, actor=1, version=2), 5)
    adder.add(contribution(4.0, actor=0, version=3), 5)
    adder.add(replace(contribution(8.0, actor=2, version=5), layout="another"), 5)
    adder.add(contribution(math.inf, actor=3, version=5), 5)
    adder.add(replace(contribution(16.0, actor=4, version=5), gradient=torch.zeros(3)), 5)
    adder.add(contribution(32.0, actor=5, version=5), 6)
    assert len(adder) == 7
    arrived = adder.take()
    assert [entry.header.actor_id for entry in arrived.entries] == [0, 0, 1, 2, 3, 4, 5], "in the actors' order"
    verdicts = [entry.judgement.verdict for entry in arrived.entries]
    accepted, dropped, refused = Verdict.ACCEPTED, Verdict.DROPPED, Verdict.REFUSED
    assert verdicts == [accepted, dropped, dropped, refused, refused, refused, accepted]
    assert arrived.version == 6
    assert [header.actor_id for header in arrived.headers] == [0, 5]
    assert float(LAYOUT.slots[0].view(arrived.gradient)[0, 0]) == 33.0
    assert len(adder) == 0
    assert not adder.take().gradient.any()
    adder.resize(9)
    adder.add(contribution(1.0, actor=1, sequence=1, version=0), 9)
    assert adder.take().entries[0].judgement.verdict is accepted


def test_what_is_late_where_it_is_added_up_counts_less_by_the_rule_that_says_so():
    arrived = summed(plan(max_lag=2, lag_rule="damp"), [contribution(4.0, version=1)], version=4)
    learner = begun(plan(batch_segments=8, max_lag=2, lag_rule="damp"))
    learner.counters.version = 4
    (receipt,) = learner.add_sum(arrived)
    assert (receipt.verdict, receipt.lag, receipt.counters.damped) == (Verdict.DAMPED, 3, 1)
    assert float(LAYOUT.slots[0].view(arrived.gradient)[0, 0]) == 2.0


def unchanged_by(learner: Learner, arrived: GradientSum) -> list[Receipt]:
    """The receipts of a sum that no part is taken of."""
    before = learner.get_state()
    receipts = learner.add_sum(arrived)
    after = learner.get_state()
    for name in ("weights", "sum", "segments"):
        assert torch.equal(torch.as_tensor(before[name]), torch.as_tensor(after[name]))
    for name in ("agent_steps", "frames", "accepted", "damped", "version", "updates"):
        assert before["counters"][name] == after["counters"][name]
    return receipts


def test_a_sum_that_comes_twice_is_dropped_and_one_that_overlaps_is_refused():
    learner, some = begun(plan(batch_segments=100)), random_contributions(4)
    learner.add_sum(summed(plan(), some[:3]))
    twice = unchanged_by(learner, summed(plan(), some[:3]))
    assert [receipt.verdict for receipt in twice] == [Verdict.DROPPED] * 3
    assert "the sum of actors 0 to 2 came twice" in twice[0].reason
    overlapping = unchanged_by(learner, summed(plan(), some[2:]))
    assert [receipt.verdict for receipt in overlapping] == [Verdict.REFUSED] * 2
    assert "has something in it that came before" in overlapping[0].reason
    assert learner.counters.refused == 2
    later = learner.add_sum(summed(plan(), [contribution(actor=2, sequence=1)]))
    assert later[0].verdict is Verdict.ACCEPTED, "and the actors go on"


def test_a_contribution_that_came_in_a_sum_does_not_count_again_by_itself_nor_the_other_way_round():
    learner = begun(plan(batch_segments=100))
    learner.add_sum(summed(plan(), [contribution(actor=1), contribution(actor=2)]))
    assert learner.add(contribution(actor=1)).verdict is Verdict.DROPPED
    assert learner.add(contribution(actor=3)).verdict is Verdict.ACCEPTED
    assert unchanged_by(learner, summed(plan(), [contribution(actor=3)]))[0].verdict is Verdict.DROPPED


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({"layout": "another"}, Verdict.REFUSED, "is of network another"),
        ({"gradient": torch.full((LAYOUT.size,), math.nan)}, Verdict.REFUSED, "is not finite in"),
        ({"gradient": torch.zeros(3)}, Verdict.REFUSED, "is of 3 parameters, expected"),
        ({"version": 2}, Verdict.DROPPED, "is 6 versions late (learner.max_lag=5)"),
    ],
    ids=["another network", "not finite", "another size", "late"],
)
def test_a_sum_that_is_no_good_changes_nothing(change: dict[str, Any], verdict: Verdict, reason: str):
    learner = begun(plan(batch_segments=100, max_lag=5))
    learner.counters.version = 8
    arrived = summed(plan(), [contribution(actor=1, version=7), contribution(actor=4, version=7)], version=8)
    receipts = unchanged_by(learner, replace(arrived, **change))
    assert [receipt.verdict for receipt in receipts] == [verdict] * 2
    assert reason in receipts[0].reason


def test_a_sum_that_waited_on_its_way_counts_less_by_the_rule_that_says_so():
    learner = begun(plan(batch_segments=100, max_lag=5, lag_rule="damp"))
    learner.counters.version = 9
    (receipt,) = learner.add_sum(summed(plan(), [contribution(3.0, version=2)], version=3))
    assert (receipt.verdict, receipt.lag) == (Verdict.DAMPED, 7)
    assert float(LAYOUT.slots[0].view(learner.get_state()["sum"])[0, 0]) == 1.5


def test_what_is_of_weights_that_a_failed_learner_took_with_it_is_dropped():
    learner = begun(plan(batch_segments=100))
    learner.continue_from(Counters(version=6))
    receipts = unchanged_by(learner, summed(plan(), [contribution(actor=1, version=7), contribution(version=6)], 7))
    assert [receipt.verdict for receipt in receipts] == [Verdict.DROPPED] * 2
    assert "weights that were lost" in receipts[0].reason


def test_a_sum_of_nothing_is_nothing():
    learner = begun(plan())
    assert learner.add_sum(plan().adder().take()) == []
    refused = learner.add_sum(summed(plan(), [contribution(math.nan)]))
    assert [receipt.verdict for receipt in refused] == [Verdict.REFUSED]
    assert refused[0].update is None


@pytest.mark.parametrize("batch_segments", [4, None])
def test_a_sum_crosses_the_wire_as_it_is(batch_segments: int | None):
    arrived = summed(plan(batch_segments), random_contributions(3))
    envelope, arrays = split(arrived)
    assert sum(array.nbytes for array in arrays.values()) == arrived.size_bytes
    there = envelope.enclose(arrays)
    assert torch.equal(there.gradient, arrived.gradient)
    assert (there.rest is None) == (arrived.rest is None) == (batch_segments is not None)
    assert there.entries == arrived.entries


class NumberedFleet(LocalFleet):
    """Actors whose unrolls are over in the order in which they began, and whose contributions say with which weights."""

    def __init__(self, num_actors: int) -> None:
        self.num_actors = num_actors
        self._restarts = Restarts(0, print)
        self.under_way: deque[tuple[int, int]] = deque()
        self.sequences = [0] * num_actors
        self.lost: set[int] = set()
        """Actors whose next weights are lost."""

    def submit(self, member_id: int, weights: Any) -> None:
        self.under_way.append((member_id, weights))

    def wait(self, timeout_s: float) -> list[FinishedUnroll[Any]]:
        del timeout_s
        if not self.under_way:
            return []
        actor, version = self.under_way.popleft()
        if actor in self.lost:
            self.lost.remove(actor)
            return [FinishedUnroll(actor, None)]
        sequence = self.sequences[actor]
        self.sequences[actor] += 1
        return [FinishedUnroll(actor, contribution(version=version, actor=actor, sequence=sequence))]


def aggregator(fleet: NumberedFleet, adder: Adder, **options: Any) -> Aggregator[Any]:
    options = {"in_flight": 1, "in_rounds": False, **options}
    return Aggregator(fleet, adder, lambda one: one, **options)


def order(contributions: int, limit_s: float | None = None) -> Order:
    return Order(contributions, patience(60) if limit_s is None else limit_s, None)


def test_an_actor_goes_on_with_the_newest_weights_while_its_nodes_sum_is_made():
    fleet = NumberedFleet(3)
    adds_up = aggregator(fleet, plan().adder())
    found = []
    for version in range(4):
        arrived, lost = adds_up.collect(version, version, order(3))
        assert not lost
        assert arrived is not None
        found.append([entry.header.policy_version for entry in arrived.entries])
        assert len(fleet.under_way) == 3, "nobody waits for the driver"
    assert found == [[0] * 3, [0] * 3, [1] * 3, [2] * 3], "two of its own sums late: what r2ac.training.sizing says"


def test_unrolls_that_are_in_flight_wait_at_their_actors():
    fleet = NumberedFleet(2)
    adds_up = aggregator(fleet, plan().adder(), in_flight=2)
    assert adds_up.collect(0, 0, order(2))[0] is not None
    assert len(fleet.under_way) == 4


def test_a_round_has_one_of_each_and_begins_when_the_one_before_is_over():
    fleet = NumberedFleet(3)
    adds_up = aggregator(fleet, plan(None).adder(), in_rounds=True)
    for version in range(3):
        arrived, _ = adds_up.collect(version, version, order(1))
        assert arrived is not None
        assert [(one.actor_id, one.sequence, one.policy_version) for one in arrived.headers] == [
            (actor, version, version) for actor in range(3)
        ]
        assert not fleet.under_way


@pytest.mark.parametrize("in_rounds", [True, False])
def test_an_actor_whose_weights_were_lost_gets_others_and_the_sum_goes_on(in_rounds: bool):
    fleet = NumberedFleet(3)
    fleet.lost = {1}
    adds_up = aggregator(fleet, plan(None if in_rounds else 4).adder(), in_rounds=in_rounds)
    assert adds_up.collect(0, 0, order(3)) == (None, True)
    arrived, lost = adds_up.collect(5, 5, order(4))
    assert not lost
    assert arrived is not None
    assert [header.actor_id for header in arrived.headers] == ([0, 1, 2] if in_rounds else [0, 0, 1, 2])
    by_actor = {header.actor_id: header.policy_version for header in arrived.headers}
    assert (by_actor[0], by_actor[1]) == (0, 5)


@pytest.mark.parametrize("in_rounds", [True, False])
def test_an_order_is_over_in_time_and_nothing_that_had_come_is_lost(in_rounds: bool):
    fleet = NumberedFleet(2)
    news = itertools.chain([False, False, True], itertools.repeat(False))
    adds_up = aggregator(
        fleet, plan(None if in_rounds else 4).adder(), in_rounds=in_rounds, has_news=lambda: next(news)
    )
    assert adds_up.collect(0, 0, order(2, patience(0))) == (None, False), "there was no time"
    first, _ = adds_up.collect(0, 0, order(2))
    assert (first is None) == in_rounds, "news ended it; a round is whole or not at all"
    second, _ = adds_up.collect(0, 0, order(2))
    assert second is not None
    parts = [] if first is None else [first]
    sent = [(one.actor_id, one.sequence) for part in (*parts, second) for one in part.headers]
    assert len(sent) == len(set(sent)) == (2 if in_rounds else 3)


def test_an_algorithm_that_says_that_it_adds_up_and_has_nothing_to_do_it_with_is_a_bug_in_words(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ray_learner, "prepare_process", lambda threads: None)  # this one has other tests to run
    config = sized(load_train(["fleet.num_actors=2", "fleet.aggregate=always"]), 2)
    no_plan: Any = StreamPlan(config.learner, LAYOUT)
    nobody: Any = print
    with pytest.raises(TypeError, match=r"StreamPlan has no adder\(\): its algorithm should not say that it adds up"):
        open_fleet(config, FleetState(), print, nobody, no_plan)
    state = no_plan.first_state(torch.zeros(LAYOUT.size))
    process = ray_learner.LearnerProcess(no_plan, state, None)
    envelope, arrays = split(summed(plan(), [contribution()]))
    with pytest.raises(TypeError, match="StreamLearner has no add_sum: its algorithm cannot be added up"):
        process.add(envelope, arrays)


def test_actors_are_spread_evenly_over_what_there_is():
    assert spread({"a": 4.0, "b": 2.0, "head": 0.0}, 6) == {"a": (0, 1, 2, 3), "b": (4, 5)}
    assert spread({"a": 4.0, "b": 4.0}, 3) == {"a": (0, 1), "b": (2,)}
    crowded = spread({"a": 1.0, "b": 2.0}, 8)
    assert [len(actors) for actors in crowded.values()] in ([3, 5], [4, 4])
    assert list(itertools.chain(*crowded.values())) == list(range(8))


@pytest.mark.parametrize("batch_segments", [4, None])
def test_what_adds_up_works_in_the_process_that_it_is_sent_to(batch_segments: int | None):
    """Tensors that share memory do not when they arrive."""
    here = plan(batch_segments).adder()
    there = pickle.loads(pickle.dumps(here))
    for adder in (here, there):
        for one in random_contributions(3):
            adder.add(one, 0)
    ours, theirs = here.take(), there.take()
    assert ours.gradient.any()
    assert torch.equal(ours.gradient, theirs.gradient)
    assert not there.take().gradient.any()


def test_a_running_sum_takes_what_was_added_up_elsewhere():
    total = RunningSum(torch.zeros(3))
    total.add(torch.ones(3), 0.5)
    total.add_sum(GradientSum("", 0, (), torch.full((3,), 2.0), None), 2.0)
    assert total.vector().tolist() == [4.5] * 3
