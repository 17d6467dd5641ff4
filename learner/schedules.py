"""When unrolls are submitted and contributions added: three schedules, each a generator of receipts that never ends.

    async      each actor starts its next unroll as soon as it can, with the newest weights known; contributions are added as they come
    sync       all actors take one unroll with the same weights; their contributions are one batch, added in the actors' order,
               whatever becomes of one of them
    lockstep   like sync, but the next round is under way while this one is added: the lag is always one

``sync`` and ``lockstep`` give the same run for the same seed, bit for bit, if the environment repeats.
"""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from actors.fleet import FinishedUnroll, Fleet, W
from actors.worker import C
from learner.clients import LearnerClient
from learner.receipts import Receipt

POLL_S = 0.5
"""How long a schedule waits before it lets the loop look after other things."""
WAITING = 8
"""Of so many members of a fleet one contribution may wait at the learner while new ones are taken: enough for it to have work, and no more,
because each makes those behind it a version later or fills a batch that could have been updated with."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a schedule yields: receipts since the last one, at least every ``POLL_S`` seconds while actors are waited for, in ``async``
    also while the learner is."""

    receipts: list[Receipt]
    may_stop: bool = True
    """Not in the middle of a round: a run that went on from there would not repeat what this one does."""


def asynchronous(
    fleet: Fleet[W, C], learner: LearnerClient[W, C], in_flight: int, own_first: bool = False
) -> Iterator[Progress]:
    """
    Args:
        own_first: up to ``WAITING`` actors, each goes on when its own contribution has been added (``Algorithm.knows_its_own``).
    """
    for _ in range(in_flight):
        for member_id in fleet.member_ids:
            fleet.submit(member_id, learner.weights)
    while True:
        finished = fleet.wait(POLL_S)
        waiting = max(0, math.ceil(len(fleet.member_ids) / WAITING) - own_first)
        if own_first:
            for unroll in finished:
                _send(learner, unroll)
        # Before the actors go on: the weights that their next unroll gets are the newest there are. A learner that cannot
        # keep up stops the actors here instead of piling up what they send, which would only get older.
        receipts = learner.receipts(at_most_pending=waiting, limit_s=POLL_S)
        while learner.pending > waiting:
            yield Progress(receipts)
            receipts = learner.receipts(at_most_pending=waiting, limit_s=POLL_S)
        for unroll in finished:
            if not own_first:
                _send(learner, unroll)
            fleet.submit(unroll.member_id, learner.weights)
        yield Progress(receipts)


def synchronous(
    fleet: Fleet[W, C], learner: LearnerClient[W, C], in_flight: int = 1, own_first: bool = False
) -> Iterator[Progress]:
    del in_flight, own_first
    while True:
        _submit_round(fleet, learner)
        _send_round(learner, (yield from _finish_round(fleet, learner)))
        yield Progress(learner.finish_round())


def lockstep(
    fleet: Fleet[W, C], learner: LearnerClient[W, C], in_flight: int = 1, own_first: bool = False
) -> Iterator[Progress]:
    del in_flight, own_first
    _submit_round(fleet, learner)
    while True:
        finished = yield from _finish_round(fleet, learner)
        _submit_round(fleet, learner)
        _send_round(learner, finished)
        yield Progress(learner.finish_round())


SCHEDULES: dict[str, Callable[..., Iterator[Progress]]] = {
    "async": asynchronous,
    "sync": synchronous,
    "lockstep": lockstep,
}


def _submit_round(fleet: Fleet[W, C], learner: LearnerClient[W, C]) -> None:
    for member_id in fleet.member_ids:
        fleet.submit(member_id, learner.weights)


def _finish_round(fleet: Fleet[W, C], learner: LearnerClient[W, C]) -> Generator[Progress, None, list[C]]:
    """Yields while it waits; returns the round's contributions in the actors' order."""
    finished: dict[int, C] = {}
    while len(finished) < len(fleet.member_ids):
        for unroll in fleet.wait(POLL_S):
            if unroll.contribution is None:
                learner.renew_weights()
                fleet.submit(unroll.member_id, learner.weights)
            else:
                finished[unroll.member_id] = unroll.contribution
        if len(finished) < len(fleet.member_ids):
            yield Progress([], may_stop=False)
    return [finished[member_id] for member_id in sorted(finished)]


def _send(learner: LearnerClient[W, C], unroll: FinishedUnroll[C]) -> None:
    if unroll.contribution is None:
        learner.renew_weights()
    else:
        learner.send(unroll.contribution)


def _send_round(learner: LearnerClient[W, C], contributions: list[C]) -> None:
    for contribution in contributions:
        learner.send(contribution)
