"""Schedules give the loop its turn while they wait, and a run that is to end does not wait for an actor that hangs."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from actors.fleet import FinishedUnroll, LocalFleet, Restarts
from conf.load import load_train
from learner.clients import LocalLearner
from learner.schedules import SCHEDULES
from r2ac.monitoring.sinks import Sinks, open_sinks
from r2ac.persistence import checkpoint as checkpoints
from r2ac.training import loop
from r2ac.training.loop import Clock, RunHooks, train
from rtrl_core import WeightsSnapshot

TOY = [
    *("experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=2", "actors.num_envs=4"),
    *("actors.unroll=3", "network.num_units=8", "network.encoder=mlp", "network.features=6", "logging=quiet"),
    "total_steps=1_000_000",
]


class GreedyLearner(LocalLearner):
    """Adds everything."""

    def __init__(self) -> None:
        self.weights = WeightsSnapshot(0, "network", torch.zeros(1))
        self.sent: list[object] = []

    def send(self, contribution: object) -> None:
        self.sent.append(contribution)

    def receipts(self, *, at_most_pending: int, limit_s: float | None = None) -> list:
        del at_most_pending, limit_s
        return []

    def finish_round(self) -> list:
        return []


class SlowFleet(LocalFleet):
    """Two actors, of which the second is slow: it finishes when it is told to."""

    def __init__(self) -> None:
        self.num_actors = 2
        self._restarts = Restarts(0, print)
        self.rounds = 0
        self.done: list[FinishedUnroll] = []

    def submit(self, member_id: int, weights: WeightsSnapshot) -> None:
        assert weights.layout == "network"
        self.rounds += member_id
        if member_id == 0:
            self.done.append(FinishedUnroll(0, "first"))

    def wait(self, timeout_s: float) -> list[FinishedUnroll]:
        del timeout_s
        done, self.done = self.done, []
        return done


class NotingLearner(GreedyLearner):
    """Says in its weights what has been added to them, which happens when somebody waits for it."""

    def receipts(self, *, at_most_pending: int, limit_s: float | None = None) -> list:
        added = len(self.sent) - at_most_pending
        self.weights = WeightsSnapshot(max(self.weights.version, added), "network", torch.zeros(1))
        return []


@pytest.mark.parametrize(("actors", "waits"), [(1, 0), (8, 0), (9, 1), (64, 7)])
def test_an_actor_of_a_small_fleet_has_weights_that_know_what_it_sent(actors: int, waits: int):
    class EveryoneAtOnce(SlowFleet):
        def __init__(self) -> None:
            super().__init__()
            self.num_actors = actors
            self.versions: list[int] = []

        def submit(self, member_id: int, weights: WeightsSnapshot) -> None:
            self.versions.append(weights.version)
            self.done.append(FinishedUnroll(member_id, "contribution"))

    fleet, learner = EveryoneAtOnce(), NotingLearner()
    schedule = SCHEDULES["async"](fleet, learner, 1, own_first=True)
    for rounds in (1, 2):
        next(schedule)
        assert set(fleet.versions[-actors:]) == {rounds * actors - waits}


@pytest.mark.parametrize("mode", ["sync", "lockstep"])
def test_the_loop_has_its_turn_in_the_middle_of_a_round_and_knows_it(mode: str):
    fleet, learner = SlowFleet(), GreedyLearner()
    schedule = SCHEDULES[mode](fleet, learner, 1)
    assert [next(schedule).may_stop for _ in range(3)] == [False] * 3
    assert learner.sent == []
    fleet.done.append(FinishedUnroll(1, "second"))
    assert next(schedule).may_stop
    assert learner.sent == ["first", "second"]
    assert fleet.rounds == (2 if mode == "lockstep" else 1)


@pytest.mark.parametrize("mode", ["sync", "lockstep"])
def test_the_loop_has_its_turn_between_the_unrolls_of_a_round_that_come_one_after_the_other(mode: str):
    fleet, learner = SlowFleet(), GreedyLearner()
    fleet.num_actors = 3
    schedule = SCHEDULES[mode](fleet, learner, 1)
    assert not next(schedule).may_stop  # the first has come
    fleet.done.append(FinishedUnroll(1, "second"))
    assert not next(schedule).may_stop
    fleet.done.append(FinishedUnroll(2, "third"))
    assert next(schedule).may_stop
    assert learner.sent == ["first", "second", "third"]


class QueueingLearner(GreedyLearner):
    """Adds one contribution at a time, and only while more wait than the schedule lets it leave."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.longest = 0, 0

    def send(self, contribution: object) -> None:
        self.waiting += 1
        self.longest = max(self.longest, self.waiting)

    def receipts(self, *, at_most_pending: int, limit_s: float | None = None) -> list:
        self.waiting = min(self.waiting, at_most_pending)
        return []


class QuickFleet(SlowFleet):
    """Everybody finishes at once."""

    def __init__(self, num_actors: int) -> None:
        super().__init__()
        self.num_actors, self.submitted = num_actors, 0

    def submit(self, member_id: int, weights: WeightsSnapshot) -> None:
        self.submitted += 1
        self.done.append(FinishedUnroll(member_id, "unroll"))


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize(("num_actors", "may_wait"), [(1, 1), (2, 1), (8, 1), (9, 2), (60, 8)])
def test_a_learner_that_is_behind_holds_the_actors_back(num_actors: int, may_wait: int, in_flight: int):
    fleet, learner = QuickFleet(num_actors), QueueingLearner()
    schedule = SCHEDULES["async"](fleet, learner, in_flight)
    for _ in range(20):
        next(schedule)
        assert len(fleet.done) == in_flight * num_actors, "no actor has more under way than it may"
    assert learner.longest == may_wait + in_flight * num_actors, "those that were let wait, and what had finished since"


class SilentLearner(GreedyLearner):
    """Answers nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.pending, self.answers = 0, False
        self.limits: list[float | None] = []

    def send(self, contribution: object) -> None:
        self.pending += 1

    def receipts(self, *, at_most_pending: int, limit_s: float | None = None) -> list:
        self.limits.append(limit_s)
        if self.answers:
            self.pending = min(self.pending, at_most_pending)
        return []


def test_the_loop_has_its_turn_while_the_learner_is_silent_and_no_actor_goes_on_meanwhile():
    fleet, learner = QuickFleet(4), SilentLearner()
    schedule = SCHEDULES["async"](fleet, learner, 1)
    next(schedule)
    submitted = fleet.submitted
    assert [next(schedule).receipts for _ in range(3)] == [[]] * 3
    assert fleet.submitted == submitted
    assert None not in learner.limits, "it may hang: nobody waits for it without a limit"
    learner.answers = True
    next(schedule)
    assert fleet.submitted == submitted + 4


@pytest.fixture
def hanging_fleet(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """From the third round on nothing comes any more. Returns whether that is so."""
    wait, taken = LocalFleet.wait, []

    def hangs(self: LocalFleet, timeout_s: float) -> list[FinishedUnroll]:
        if len(taken) < 5:
            taken.append(True)
            return wait(self, timeout_s)
        time.sleep(0.01)
        return []

    monkeypatch.setattr(LocalFleet, "wait", hangs)
    return lambda: len(taken) == 5


def test_a_row_waits_for_a_contribution_but_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    clock = Clock(interval_s=10.0, interval_steps=None, agent_steps=0)
    seen = []
    for now in (109.0, 110.0, 129.0, 130.0):  # noqa: B007
        seen.append((clock.due(0), clock.is_late()))
    assert seen == [(False, False), (True, False), (True, False), (True, True)]


@pytest.mark.seconds
@pytest.mark.parametrize(("mode", "interval_s"), [("async", 0.9), ("sync", 1.5), ("lockstep", 1.5)])
def test_rows_come_with_contributions_however_long_unrolls_take(
    mode: str, interval_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now, wait = 100.0, LocalFleet.wait
    looks = 0

    def slowly(self: LocalFleet, timeout_s: float) -> list[FinishedUnroll]:
        nonlocal now, looks
        now, looks = now + 1.0, looks + 1
        return [] if looks % 2 else wait(self, timeout_s)

    monkeypatch.setattr(LocalFleet, "wait", slowly)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    words = [f"learner.mode={mode}", f"logging.interval_s={interval_s}", "total_steps=240"]
    with open_sinks(load_train([*TOY, *words]), tmp_path, {}) as sinks:
        train(load_train([*TOY, *words]), tmp_path, sinks, RunHooks())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    speeds = [row["steps_per_second"] for row in rows if row["steps_per_second"] is not None]
    assert len(speeds) > 3
    assert min(speeds[:-1]) == max(speeds[:-1]) > 0


@pytest.mark.seconds
@pytest.mark.parametrize("mode", ["async", "sync", "lockstep"])
def test_a_run_that_is_to_end_does_not_wait_for_an_actor_that_hangs(
    mode: str, tmp_path: Path, hanging_fleet: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "STOPPING_S", 0.3)

    class Stopped(RunHooks):
        def should_stop(self) -> bool:
            return hanging_fleet()

    row = train(load_train([*TOY, f"learner.mode={mode}"]), tmp_path, Sinks([], lambda text: None), Stopped())
    assert checkpoints.load(checkpoints.find(tmp_path)).agent_steps == row["agent_steps"]
    rounds = {"async": 5, "sync": 4, "lockstep": 4}[mode]  # of five unrolls, the last is the first half of a round
    assert row["contributions_accepted"] == rounds
