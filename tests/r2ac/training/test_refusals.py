"""Contributions that are no good: their actor is replaced after a few, and a run that gets nothing else ends with the reason."""

import math
from pathlib import Path

import pytest
import torch
from empty_statistics import no_statistics

import actors.actor
import actors.games
from actors.fleet import LocalFleet
from conf.load import load_train
from learner.receipts import Counters, Receipt, Verdict
from r2ac.monitoring.sinks import Sinks
from r2ac.training.loop import RunHooks, train
from r2ac.training.refusals import FEWEST, REFUSALS_PER_ACTOR, NoProgress, Refusals
from rtrl_core import ContributionHeader

TOY = [
    *("experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=3", "actors.num_envs=4"),
    *("actors.unroll=3", "network.num_units=8", "network.encoder=mlp", "network.features=6", "logging=quiet"),
]


def receipt(actor: int, verdict: Verdict, incarnation: int = 0) -> Receipt:
    header = ContributionHeader(actor, incarnation, 0, 0, 1, 1, 1)
    return Receipt(header, no_statistics(), verdict, f"reason of {actor}", 0, None, Counters(), 0.0)


@pytest.fixture
def replaced() -> list[tuple[int, str]]:
    return []


def make_refusals(replaced: list[tuple[int, str]], num_actors: int = 2) -> Refusals:
    return Refusals(lambda: num_actors, lambda actor_id, cause: replaced.append((actor_id, cause)), lambda text: None)


def test_an_actor_is_replaced_once_after_a_few_refusals_in_a_row(replaced: list[tuple[int, str]]):
    refusals = make_refusals(replaced)
    for _ in range(REFUSALS_PER_ACTOR - 1):
        refusals.add([receipt(0, Verdict.REFUSED), receipt(1, Verdict.ACCEPTED)])
    refusals.add([receipt(0, Verdict.ACCEPTED)])
    assert not replaced
    for _ in range(REFUSALS_PER_ACTOR + 1):  # one more was on its way
        refusals.add([receipt(0, Verdict.REFUSED), receipt(1, Verdict.ACCEPTED)])
    assert replaced == [(0, f"{REFUSALS_PER_ACTOR} contributions in a row were refused: reason of 0")]
    refusals.add([receipt(0, Verdict.REFUSED, incarnation=1)] * REFUSALS_PER_ACTOR)
    assert len(replaced) == 2


def test_late_contributions_replace_nobody(replaced: list[tuple[int, str]]):
    refusals = make_refusals(replaced)
    refusals.add([receipt(0, Verdict.DROPPED)] * (FEWEST - 1))
    assert not replaced


@pytest.mark.parametrize(("num_actors", "limit"), [(1, FEWEST), (60, 600)])
@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.DROPPED])
def test_a_run_of_which_nothing_is_accepted_ends(verdict: Verdict, num_actors: int, limit: int):
    refusals = make_refusals([], num_actors)
    refusals.add([receipt(7, verdict)] * (limit - 1))
    refusals.add([receipt(3, Verdict.DAMPED)])
    refusals.add([receipt(7, verdict)] * (limit - 1))
    with pytest.raises(NoProgress, match=rf"none of the last {limit} .* the last one was {verdict}: reason of 7"):
        refusals.add([receipt(7, verdict)])


@pytest.mark.seconds
@pytest.mark.parametrize("mode", ["async", "sync", "lockstep"])
def test_a_run_whose_rewards_are_no_numbers_ends_with_a_line_that_names_the_parameter(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    events: list[str] = []
    monkeypatch.setattr(actors.games, "clip_rewards", lambda rewards, how: torch.full_like(rewards, math.nan))
    with pytest.raises(NoProgress, match=r"contribution \d+ of actor \d .* is not finite in .*policy_head.weight"):
        train(load_train([*TOY, f"learner.mode={mode}"]), tmp_path, Sinks([], events.append), RunHooks())
    assert any("restarted" in event and "contributions in a row were refused" in event for event in events)


@pytest.mark.seconds
@pytest.mark.parametrize("mode", ["async", "sync", "lockstep"])
def test_one_actor_that_sends_nothing_good_is_replaced_and_the_run_goes_on(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = LocalFleet._unroll

    def unroll(fleet: LocalFleet, actor_id: int, weights):
        contribution = real(fleet, actor_id, weights)
        if actor_id == 1 and contribution.header.incarnation == 0:
            contribution.gradient.fill_(math.inf)
        return contribution

    monkeypatch.setattr(LocalFleet, "_unroll", unroll)
    row = train(
        load_train([*TOY, f"learner.mode={mode}", "total_steps=2000"]), tmp_path, Sinks([], lambda _: None), RunHooks()
    )
    assert row["actor_restarts"] == 1
    assert REFUSALS_PER_ACTOR <= (row["contributions_refused"] or 0) <= REFUSALS_PER_ACTOR + 2
    assert (row["agent_steps"] or 0) >= 2000
