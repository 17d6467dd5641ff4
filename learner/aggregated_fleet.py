"""Fleets whose contributions are added up on the actors' nodes (``aggregator.py``): a member is a node's aggregator with its actors.

To a schedule they are fleets like others, of fewer members, whose contributions are sums.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.fleet import FinishedUnroll, FleetError, FleetState, first_identity
from actors.following_fleet import FollowingFleet
from actors.places import capacities
from actors.ray_fleet import (
    ContributionReference,
    Member,
    Pending,
    RayFleet,
    process_options,
    require_resources,
)
from actors.worker import ActorIdentity, C, WorkerBuilder
from conf.schema import TrainConfig
from learner.aggregator import AggregatorProcess, Crew, NodeFleet, Order, Told
from learner.sums import Adder

ANSWER_S = 10.0
"""How long an aggregator may take to answer that nothing has come; it is silent if it takes much longer."""


class AddingFleet(RayFleet[C]):
    """What both kinds have in common. Arguments as ``RayFleet``, and:

    Args:
        adder: of a node's sums; each aggregator gets a copy.
        kind: of the fleet in each aggregator.
    """

    def __init__(
        self,
        config: TrainConfig,
        num_actors: int,
        state: FleetState,
        announce: Callable[[str], None],
        build: WorkerBuilder[C],
        *,
        adder: Adder,
        kind: type[NodeFleet] = NodeFleet,
    ) -> None:
        self._adder, self._kind = adder, kind
        self._from_checkpoint = state
        learner = config.learner
        assert learner.batch_segments is not None
        self._size_of_updates = (learner.batch_segments, learner.max_lag)
        self._crews: dict[int, tuple[int, ...]] = {}
        """Actors of each member."""
        self._known: dict[int, int] = {}
        """The last incarnation of each actor that was heard of."""
        self._newest: ObjectRef | None = None
        super().__init__(config, num_actors, state, announce, build)

    @property
    def actor_ids(self) -> Sequence[int]:
        return sorted(actor_id for number in self._members for actor_id in self._crews[number])

    @property
    def incarnations(self) -> dict[int, int]:
        return dict(self._known)

    @property
    def _unrolls_at_once(self) -> int:
        return 1

    def resize(self, batch_segments: int, max_lag: int) -> None:
        self._size_of_updates = (batch_segments, max_lag)

    def submit(self, member_id: int, weights: ObjectRef) -> None:
        """An aggregator has one order at a time: its actors have as many unrolls under way as they may."""
        self._newest = weights
        member = self._members.get(member_id)
        if member is None or not member.pending:
            super().submit(member_id, weights)

    def _call(self, member: Member, weights: ObjectRef) -> list[ObjectRef]:
        batch_segments, max_lag = self._size_of_updates
        per_update = -(-batch_segments // self._config.actors.streams)
        order = Order(
            max(1, min(self._size(member), per_update)),
            min(ANSWER_S, self._config.fleet.unroll_timeout_s / 4),
            max_lag,
        )
        return member.process.collect.options(num_returns=3).remote(weights, order)

    def _finished(
        self, member: Member, answer: Any, pending: Pending
    ) -> FinishedUnroll[ContributionReference[C]] | None:
        number = member.identity.actor_id
        if answer is None:
            return FinishedUnroll(number, None)
        told: Told = answer
        self._known.update(told.incarnations)
        for who, cause in told.restarts:
            self._restarts.count_one(who, cause)
        if told.weights_lost:
            return FinishedUnroll(number, None)
        if told.contributions is None:
            self.submit(number, self._newest or pending.weights)
            return None
        envelope, arrays = pending.bulk
        return FinishedUnroll(number, ContributionReference(envelope, arrays, told.contributions))

    def replace(self, actor_id: int, cause: str) -> None:
        for number, crew in self._crews.items():
            if actor_id in crew:
                self._members[number].process.replace.remote(actor_id, cause)

    def _start(self, identity: ActorIdentity, state: dict[str, Any] | None, node: str | None = None) -> Member:
        del state  # of an aggregator: it has none
        number = identity.actor_id
        if number not in self._crews:
            assert node is not None
            self._crews[number] = self._crew_for(node)
        node = self._node_for(number, node)
        actor_ids = self._crews[number]
        states = {
            actor_id: self._from_checkpoint.actors[actor_id]
            for actor_id in actor_ids
            if actor_id not in self._known and actor_id in self._from_checkpoint.actors
        }
        crew = Crew(tuple(map(self._next_identity, actor_ids)), node, self._may_be_elsewhere, states)
        process = (
            ray.remote(AggregatorProcess)
            .options(
                num_cpus=0,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                **process_options(self._config.fleet),
            )
            .remote(self._config, crew, self._build, self._adder, self._kind)
        )
        return Member(identity, process, node=node)

    def _next_identity(self, actor_id: int) -> ActorIdentity:
        if actor_id not in self._known:
            identity = first_identity(self._config, actor_id, self._from_checkpoint)
        else:  # its aggregator may have started it once more, and not lived to tell
            identity = ActorIdentity(actor_id, self._known[actor_id] + 2, self._config.seed)
        self._known[actor_id] = identity.incarnation
        return identity

    def _crew_for(self, node: str) -> tuple[int, ...]:
        """Actors of a member that begins."""
        raise NotImplementedError

    def _node_for(self, number: int, node: str | None) -> str:
        """Where a member begins that is to be on a node, or was on it."""
        raise NotImplementedError

    def _name(self, member: Member) -> str:
        crew = self._crews[member.identity.actor_id]
        return f"the aggregator of actors {crew[0]} to {crew[-1]}"

    def _size(self, member: Member) -> int:
        return len(self._crews[member.identity.actor_id])

    def get_state(self, limit_s: float | None = None) -> FleetState:
        states: Iterable[FleetState] = self._states(
            limit_s, lambda process, seconds: process.get_state.remote(seconds)
        ).values()
        found = {actor_id: state for of_node in states for actor_id, state in of_node.actors.items()}
        incarnations = {actor_id: number for of_node in states for actor_id, number in of_node.incarnations.items()}
        return FleetState({**self._known, **incarnations}, found)


class AggregatedFleet(AddingFleet[C]):
    """So many actors, spread over the nodes that there are; those of a node that is lost go to another one."""

    _may_be_elsewhere = True

    def _begin(self, num_actors: int, state: FleetState) -> None:
        del state  # each actor's goes to its aggregator
        require_resources(self._config, num_actors)
        places = spread(self._capacities(), num_actors)
        self._crews = dict(enumerate(places.values()))
        self._homes = dict(enumerate(places))
        for number, node in list(self._homes.items()):
            self._members[number] = self._start(ActorIdentity(number, 0, self._config.seed), None, node)
        self._await_start()

    @property
    def num_actors(self) -> int:
        return sum(map(len, self._crews.values()))

    def _node_for(self, number: int, node: str | None) -> str:
        free = self._capacities()
        if node not in free:
            for other, home in self._homes.items():
                if other != number and home in free:
                    free[home] -= len(self._crews[other])
            if not free:
                raise FleetError("no node of the cluster is left")
            node = max(free, key=lambda name: free[name])
        self._homes[number] = node
        return node

    def _capacities(self) -> dict[str, float]:
        return capacities(ray.nodes(), self._config, ray.get_runtime_context().get_node_id())


class AggregatedFollowingFleet(AddingFleet[C], FollowingFleet[C]):
    """As many actors on each node as there is room for, whenever nodes come and go."""

    @property
    def num_actors(self) -> int:
        return sum(self._size(member) for member in self._members.values() if member.stands)

    def _members_for(self, room: int) -> int:
        return min(room, 1)

    def _rooms(self) -> dict[str, int]:
        self._room = super()._rooms()
        return self._room

    def _crew_for(self, node: str) -> tuple[int, ...]:
        taken = {actor_id for crew in self._crews.values() for actor_id in crew}
        free = (actor_id for actor_id in itertools.count() if actor_id not in taken)
        return tuple(itertools.islice(free, self._room[node]))

    def _node_for(self, number: int, node: str | None) -> str:
        del number
        assert node is not None
        return node

    def _take_out(self, member: Member) -> None:
        super()._take_out(member)
        del self._crews[member.identity.actor_id]


def spread(capacities: Mapping[str, float], num_actors: int) -> dict[str, tuple[int, ...]]:
    """Actors of each node that has some, one after the other, so that all nodes are about equally full."""
    fullest = [(-capacity, node) for node, capacity in capacities.items()]
    heapq.heapify(fullest)
    counts = dict.fromkeys(capacities, 0)
    for _ in range(num_actors):
        less, node = fullest[0]
        heapq.heapreplace(fullest, (less + 1, node))
        counts[node] += 1
    places: dict[str, tuple[int, ...]] = {}
    first = 0
    for node, count in counts.items():
        if count:
            places[node] = tuple(range(first, first + count))
            first += count
    return places
