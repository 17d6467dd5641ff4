"""A fleet on Ray that follows its cluster: as many actors on each node as there is room for, whenever nodes come and go.

    a node joins      its actors start, and take unrolls with the newest weights as soon as they stand
    a node leaves     its actors are written off: no restart, nothing is submitted again, their contributions on the way count if they come
    an actor dies     where its node lives: started again there, and counted, as in a fleet of fixed size

An actor that left gives its number to the next that comes, which goes on under the next incarnation.
"""

import itertools
import time
from collections import Counter, deque
from dataclasses import dataclass

import ray
from ray import ObjectRef
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from actors.fleet import FinishedUnroll, FleetError, FleetState, first_identity
from actors.places import rooms
from actors.ray_failures import DEATHS, cause_of_failed_start
from actors.ray_fleet import ContributionReference, Member, RayFleet, describe_resources
from actors.worker import ActorIdentity, C

LOOK_S = 2.0
"""Between two looks at the cluster."""
DECISION_S = 60.0
"""How long Ray may take to say that a node is gone, whose actors do not answer any more."""
NEXT_TRY_S = 60.0
"""Before actors are started again on a node on which one could not."""


@dataclass(frozen=True, slots=True)
class _Missing:
    """An actor that cannot be reached: it has died, or its node has."""

    since: float
    cause: str
    owed: int


class FollowingFleet(RayFleet[C]):
    """Arguments as ``RayFleet``; it begins when ``num_actors`` stand.

    Raises:
        FleetError: if there is no room for so many, or they do not start, in time or at all.
    """

    def _begin(self, num_actors: int, state: FleetState) -> None:
        self._state = state
        self._left: dict[int, ActorIdentity] = {}
        """The last who had a number that is free now."""
        self._missing: dict[int, _Missing] = {}
        self._next_try: dict[str, float] = {}
        self._weights: ObjectRef | None = None
        self._looked_at = 0.0
        self._written_off = 0
        self._first_failure: str | None = None
        self._await_room(num_actors)
        self._admit(self._rooms())
        self._await_first(num_actors)

    @property
    def num_actors(self) -> int:
        return sum(self._size(member) for member in self._members.values() if member.stands)

    def submit(self, member_id: int, weights: ObjectRef) -> None:
        self._weights = weights
        if member_id in self._members and member_id not in self._missing:
            super().submit(member_id, weights)

    def replace(self, actor_id: int, cause: str) -> None:
        if actor_id in self._members and actor_id not in self._missing:
            super().replace(actor_id, cause)

    def wait(self, timeout_s: float) -> list[FinishedUnroll[ContributionReference[C]]]:
        if not any(member.pending for member in self._members.values()):
            time.sleep(min(timeout_s, LOOK_S))  # nobody is there, until a node joins
        finished = super().wait(timeout_s)
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._follow(self._rooms())
        return finished

    def get_state(self, limit_s: float | None = None) -> FleetState:
        state = super().get_state(limit_s)
        left = {actor_id: identity.incarnation for actor_id, identity in self._left.items()}
        return FleetState({**left, **state.incarnations}, state.actors)

    def _rooms(self) -> dict[str, int]:
        self._looked_at = time.monotonic()
        return rooms(ray.nodes(), self._config, ray.get_runtime_context().get_node_id())

    def _died(self, member: Member, failure: RayError, cause: str) -> None:
        actor_id = member.identity.actor_id
        if member.node not in self._rooms():
            self._write_off(member)
        elif isinstance(failure, ActorUnavailableError):
            self._missing[actor_id] = _Missing(time.monotonic(), cause, len(member.pending))
            member.pending, member.stands = deque(), False
        elif isinstance(failure, RayActorError) and failure.actor_init_failed:
            self._leave_node(member, cause)
        else:
            self._replace(member, cause)

    def _may_be_timed(self, member: Member) -> bool:
        return member.stands

    def _follow(self, rooms: dict[str, int]) -> None:
        """Nodes that are gone, those that have come, and actors of which it was not known which of the two it is."""
        for member in list(self._members.values()):
            if member.node not in rooms:
                self._write_off(member)
        now, fleet = time.monotonic(), self._config.fleet
        for actor_id, missing in list(self._missing.items()):
            if now - missing.since > DECISION_S:
                del self._missing[actor_id]
                self._replace(self._members[actor_id], missing.cause)
                self._submit_newest(actor_id, missing.owed)
        for member in list(self._members.values()):
            if member.pending and not member.stands and now - member.waiting_since > fleet.start_timeout_s:
                self._leave_node(member, f"it was not up after {fleet.start_timeout_s:g} s (fleet.start_timeout_s)")
        if self._written_off:
            self._announce(f"{self._written_off} actors have left with their nodes; {len(self.actor_ids)} go on")
            self._written_off = 0
        if came := self._admit(rooms):
            self._announce(f"{came} actors are started on nodes that have room for them")

    def _admit(self, rooms: dict[str, int]) -> int:
        """Starts actors wherever there is room; returns how many."""
        present = Counter(member.node for member in self._members.values())
        now = time.monotonic()
        numbers = (number for number in itertools.count() if number not in self._members)
        before = len(self.actor_ids)
        for node, room in rooms.items():
            if self._next_try.get(node, 0.0) <= now:
                for actor_id in itertools.islice(numbers, max(0, self._members_for(room) - present[node])):
                    self._members[actor_id] = self._start(*self._next(actor_id), node)
                    self._submit_newest(actor_id, self._unrolls_at_once)
        return len(self.actor_ids) - before

    def _members_for(self, room: int) -> int:
        """How many stand for so many actors."""
        return room

    def _next(self, actor_id: int) -> tuple[ActorIdentity, dict[str, object] | None]:
        """Who comes under a number, and the state that a checkpoint has of it."""
        last = self._left.pop(actor_id, None)
        if last is not None:
            return last._replace(incarnation=last.incarnation + 1), None
        return first_identity(self._config, actor_id, self._state), self._state.actors.get(actor_id)

    def _submit_newest(self, actor_id: int, count: int) -> None:
        if self._weights is not None:  # otherwise the schedule has not begun, and begins with all
            for _ in range(count):
                super().submit(actor_id, self._weights)

    def _write_off(self, member: Member) -> None:
        """One whose node has left."""
        self._written_off += self._size(member)
        self._take_out(member)

    def _take_out(self, member: Member) -> None:
        actor_id = member.identity.actor_id
        self._left[actor_id] = member.identity
        self._missing.pop(actor_id, None)
        del self._members[actor_id]
        ray.kill(member.process)

    def _leave_node(self, member: Member, cause: str) -> None:
        """One that could not start: its node is tried again later, and the others do not wait for it."""
        assert member.node is not None
        who = self._name(member)
        self._take_out(member)
        if self._next_try.get(member.node, 0.0) <= time.monotonic():
            self._announce(f"{who} could not start on a node ({cause}); it is tried again there in {NEXT_TRY_S:g} s")
        self._next_try[member.node] = time.monotonic() + NEXT_TRY_S

    def _await_room(self, fewest: int) -> None:
        limit_s = self._config.fleet.placement_timeout_s
        deadline = time.monotonic() + limit_s
        if sum(self._rooms().values()) < fewest:
            self._announce(f"waiting for nodes with room for fleet.min_actors={fewest}, at most {limit_s:g} s")
        while (room := sum(self._rooms().values())) < fewest:
            if time.monotonic() >= deadline:
                raise FleetError(
                    f"fleet.min_actors={fewest}, but the cluster has room for {room}: it has {describe_resources(ray.cluster_resources())} "
                    f"(waited {limit_s:g} s): lower fleet.min_actors or actors.num_cpus, or add nodes"
                )
            time.sleep(0.2)

    def _await_first(self, fewest: int) -> None:
        """Waits until so many stand, so that a mistake in the configuration is reported at once and as itself."""
        limit_s = self._config.fleet.start_timeout_s
        deadline = time.monotonic() + limit_s
        answers = {member.process.ready.remote(): member for member in self._members.values()}
        while self.num_actors < fewest:
            if not answers:
                raise FleetError(f"an actor could not start: {self._first_failure or 'its node has left'}")
            ready, _ = ray.wait(list(answers), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise FleetError(
                    f"only {self.num_actors} of fleet.min_actors={fewest} actors were up after {limit_s:g} s (fleet.start_timeout_s): the "
                    f"cluster has {describe_resources(ray.cluster_resources())}, free are "
                    f"{describe_resources(ray.available_resources())}"
                )
            self._greet(answers.pop(ready[0]), ready[0])
        for answer in ray.wait(list(answers), num_returns=len(answers), timeout=0)[0] if answers else []:
            self._greet(answers[answer], answer)

    def _greet(self, member: Member, answer: ObjectRef) -> None:
        try:
            ray.get(answer)
        except DEATHS as failure:
            if member.node not in self._rooms():
                self._write_off(member)
                return
            cause = cause_of_failed_start(failure)
            self._first_failure = self._first_failure or cause
            self._leave_node(member, cause)
        else:
            member.stands = True
