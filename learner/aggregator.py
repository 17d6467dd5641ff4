"""The process that adds up what the actors of a node contribute, before it crosses the network; the actors are its own.

driver                              aggregator process, one per node         actor processes of the node
collect(weights)              -->   puts them into its node's store     -->  unroll
                                    adds what comes, one by one         <--  gradient
wait() <-- who, what became of it   the sum into the object store      --(reference)-->  learner: add_sum

An actor goes on as soon as its contribution is added, with the newest weights that are known on the node; one that dies is started again
here, and told of. If the aggregator dies, its actors do.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import ray
from ray import ObjectRef
from ray.exceptions import RayError

from actors.fleet import Fleet, FleetState, Restarts, W
from actors.precision import prepare_process
from actors.ray_failures import is_lost_object
from actors.ray_fleet import ContributionReference, RayFleet
from actors.wire import Envelope, PackedSnapshot, split
from actors.worker import ActorIdentity, WorkerBuilder
from conf.schema import TrainConfig
from learner.schedules import POLL_S
from learner.sums import Adder, GradientSum
from rtrl_core import GradientContribution


@dataclass(frozen=True, slots=True)
class Crew:
    """The actors of a node."""

    identities: tuple[ActorIdentity, ...]
    node: str | None
    may_be_elsewhere: bool
    """Whether one may start on another node if this one has no room."""
    states: Mapping[int, dict[str, Any]]
    """``Worker.get_state`` of those that go on from a checkpoint."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a driver asks for, beside the weights."""

    contributions: int
    """After which a sum is over; those that come at the same time are all in it. In rounds it is one of each actor."""
    limit_s: float
    """After so long there is an answer, whatever has come."""
    max_lag: int | None


@dataclass(frozen=True, slots=True)
class Told:
    """What a driver is told at the end of an order. The sum itself passes by it."""

    contributions: int | None
    """To the sum; ``None`` if the order has to be given again: nothing has come in time, or the weights were lost."""
    weights_lost: bool
    restarts: tuple[tuple[str, str], ...]
    """Who was started again since the last order, and why."""
    incarnations: Mapping[int, int]
    """Of each actor, now."""


class Aggregator(Generic[W]):
    """Contributions of a fleet to sums.

    Args:
        fetch: the contribution that the fleet passes a reference to; ``None`` if it was lost.
        in_flight: unrolls that each actor owes at a time; in rounds one.
        has_news: whether there is something that the driver should be told soon.
    """

    def __init__(
        self,
        fleet: Fleet[W, Any],
        adder: Adder,
        fetch: Callable[[Any], GradientContribution | None],
        *,
        in_flight: int,
        in_rounds: bool,
        has_news: Callable[[], bool] = lambda: False,
    ) -> None:
        self._fleet, self._adder, self._fetch = fleet, adder, fetch
        self._in_rounds, self._has_news = in_rounds, has_news
        self._to_begin = deque([] if in_rounds else [*fleet.member_ids] * in_flight)
        """Unrolls that have yet to be submitted."""
        self._awaited: set[int] = set()
        """Of a round."""

    def collect(self, weights: W, version: int, order: Order) -> tuple[GradientSum | None, bool]:
        """What has come, added up, and whether weights were lost on their way to an actor; then, or when there is no sum yet, what has come
        is part of the next.

        Args:
            version: of the weights.
        """
        self._adder.resize(order.max_lag)
        if self._in_rounds and not self._awaited:
            self._awaited = set(self._fleet.member_ids)
            self._to_begin.extend(self._fleet.member_ids)
        while self._to_begin:
            self._fleet.submit(self._to_begin.popleft(), weights)
        until, lost = time.monotonic() + order.limit_s, False
        while not (lost or self._is_complete(order) or self._has_news()) and time.monotonic() < until:
            for unroll in self._fleet.wait(min(POLL_S, order.limit_s)):
                if unroll.contribution is None:
                    self._to_begin.append(unroll.member_id)
                    lost = True
                    continue
                if (contribution := self._fetch(unroll.contribution)) is not None:
                    self._adder.add(contribution, version)
                if self._in_rounds:
                    self._awaited.discard(unroll.member_id)
                else:
                    self._fleet.submit(unroll.member_id, weights)
        whole = self._is_complete(order) if self._in_rounds else len(self._adder) > 0
        return (self._adder.take() if whole and not lost else None), lost

    def _is_complete(self, order: Order) -> bool:
        return not self._awaited if self._in_rounds else len(self._adder) >= order.contributions


class NodeFleet(RayFleet[GradientContribution]):
    """The actors of one node, in the process of their aggregator."""

    def __init__(self, config: TrainConfig, crew: Crew, build: WorkerBuilder[GradientContribution]) -> None:
        self._crew = crew
        self._may_be_elsewhere = crew.may_be_elsewhere
        self.restarted: list[tuple[str, str]] = []
        """Who was, and why, until it is told."""
        super().__init__(config, len(crew.identities), FleetState(), lambda line: None, build)

    def _begin(self, num_actors: int, state: FleetState) -> None:
        del num_actors, state
        self._restarts = _ToldLater(self.restarted)
        for identity in self._crew.identities:
            state_of = self._crew.states.get(identity.actor_id)
            self._members[identity.actor_id] = self._start(identity, state_of, self._crew.node)
        self._await_start()

    def fetch(self, finished: ContributionReference[GradientContribution]) -> GradientContribution | None:
        """``None`` if it was in the memory of a machine that is gone."""
        assert isinstance(finished.envelope, Envelope)
        try:
            return finished.envelope.enclose(ray.get(finished.arrays))
        except RayError as failure:
            if is_lost_object(failure):
                return None
            raise


class _ToldLater(Restarts):
    """Whether there are too many is the driver's to say, who counts those of all nodes."""

    def __init__(self, restarted: list[tuple[str, str]]) -> None:
        super().__init__(0, lambda line: None)
        self._restarted = restarted

    def count_one(self, who: str, cause: str) -> None:
        self._restarted.append((who, cause))


class AggregatorProcess:
    """An aggregator and its actors' fleet, in a process of its own."""

    def __init__(
        self,
        config: TrainConfig,
        crew: Crew,
        build: WorkerBuilder[GradientContribution],
        adder: Adder,
        kind: type[NodeFleet] = NodeFleet,
    ) -> None:
        prepare_process(1)
        self._fleet = kind(config, crew, build)
        self._aggregator: Aggregator[ObjectRef] = Aggregator(
            self._fleet,
            adder,
            self._fleet.fetch,
            in_flight=config.fleet.in_flight,
            in_rounds=config.learner.mode != "async",
            has_news=lambda: bool(self._fleet.restarted),
        )
        self._weights: ObjectRef | None = None
        self._version = 0

    def ready(self) -> None:
        """Its actors stand."""

    def collect(
        self, weights: PackedSnapshot, order: Order
    ) -> tuple[Told, Envelope[GradientSum] | None, dict[str, np.ndarray]]:
        """What there is to tell the driver, and what it passes on to the learner: a sum, and its tensors."""
        if self._weights is None or weights.version != self._version:
            # Its actors get a reference of its own: those of the driver would have to come inside of something, and Ray keeps what is
            # small and came so for good.
            self._weights, self._version = ray.put(weights), weights.version
        arrived, lost = self._aggregator.collect(self._weights, self._version, order)
        if arrived is None:
            return self._told(None, lost), None, {}
        return self._told(len(arrived.entries), lost), *split(arrived)

    def _told(self, contributions: int | None, weights_lost: bool) -> Told:
        restarts = tuple(self._fleet.restarted)
        self._fleet.restarted.clear()
        return Told(contributions, weights_lost, restarts, self._fleet.incarnations)

    def replace(self, actor_id: int, cause: str) -> None:
        """See ``Fleet``."""
        self._fleet.replace(actor_id, cause)

    def get_state(self, limit_s: float) -> FleetState:
        return self._fleet.get_state(limit_s)
