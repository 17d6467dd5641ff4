"""A fleet of actors as the training loop sees it: submit unrolls, take what is finished. Here the protocol and the fleet in one process.

    fleet.submit(member_id, weights)     queues an unroll; ``weights`` are the snapshot itself here, a reference in Ray
    fleet.wait(timeout_s)                unrolls that are finished, in the order they finished

A member is an actor, or all actors of a node, whose contributions come as one (``learner/aggregated_fleet.py``).

An actor that dies is the fleet's business: it is started again under its next incarnation, with new seeds, its lost unrolls are
submitted again, and the restart is counted. A bug is not: it stops the run with its traceback.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from actors.precision import prepare_process
from actors.worker import ActorIdentity, C, C_co, Worker, WorkerBuilder
from conf.schema import TrainConfig
from envs.base import EnvironmentFailure
from rtrl_core import WeightsSnapshot

HOUR_S = 3600.0
W = TypeVar("W")
"""Weights as a fleet passes them on: the snapshot itself, or a reference to it."""


class FleetError(RuntimeError):
    """The fleet cannot go on: actors that never find a place, or too many restarts. One line for the user."""


@dataclass(frozen=True, slots=True)
class FinishedUnroll(Generic[C_co]):
    member_id: int
    contribution: C_co | None
    """What the learner's client takes: the worker's contribution, or a reference to it; ``None`` if the weights were lost on the way,
    with the machine that held them."""


@dataclass(slots=True)
class FleetState:
    """What a checkpoint keeps of a fleet."""

    incarnations: dict[int, int] = field(default_factory=dict)
    """Last incarnation of each actor; one whose own state could not be saved starts as the next."""
    actors: dict[int, dict[str, Any]] = field(default_factory=dict)
    """``Worker.get_state`` of those that can be saved."""

    def after(self, earlier: "FleetState") -> "FleetState":
        """With the incarnations of actors that a smaller fleet does not have: one that comes back must not repeat its numbers."""
        return FleetState({**earlier.incarnations, **self.incarnations}, self.actors)


@runtime_checkable
class Fleet(Protocol[W, C_co]):
    """``W`` are weights and ``C`` contributions, as this fleet and its learner's client pass them."""

    @property
    def num_actors(self) -> int:
        """How many stand; of a fleet that follows its cluster this changes."""
        ...

    @property
    def actor_ids(self) -> Sequence[int]: ...

    @property
    def member_ids(self) -> Sequence[int]:
        """Of those that unrolls can be submitted to; what one owes that comes later, a fleet submits by itself."""
        ...

    @property
    def restarts(self) -> int:
        """Actors started again so far."""
        ...

    def publish(self, snapshot: WeightsSnapshot) -> W:
        """Weights to be passed to ``submit``, any number of times."""
        ...

    def submit(self, member_id: int, weights: W) -> None:
        """One that has left with its node owes nothing any more."""
        ...

    def replace(self, actor_id: int, cause: str) -> None:
        """Starts an actor again that is no good any more, whatever it was doing. It still owes what was submitted to it.

        Raises:
            FleetError: after too many restarts.
        """
        ...

    def wait(self, timeout_s: float) -> list[FinishedUnroll[C_co]]:
        """Blocks until an unroll is finished, at most ``timeout_s``; the list may be empty.

        Raises:
            FleetError: after too many restarts.
        """
        ...

    def resize(self, batch_segments: int, max_lag: int) -> None:
        """What updates are made of now: see ``learner.plan.Resizable``."""
        ...

    def get_state(self, limit_s: float | None = None) -> FleetState:
        """Waits for the unrolls that are running, at most so long if a limit is given; actors that are not done then begin new games."""
        ...

    def resource_usage(self) -> dict[str, float | None]:
        """Metrics of the machinery itself, by name; ``None`` for one that cannot be had now."""
        ...

    def close(self) -> None: ...


def first_identity(config: TrainConfig, actor_id: int, state: FleetState) -> ActorIdentity:
    """Who an actor is at the start of a run, new or resumed."""
    if actor_id in state.actors:
        return ActorIdentity(actor_id, state.incarnations[actor_id], config.seed)
    return ActorIdentity(actor_id, state.incarnations.get(actor_id, -1) + 1, config.seed)


class RestartLimit:
    """Counts restarts and gives up after too many within an hour, with the first cause of these rather than the last.

    A run of weeks has as many as its machines make it have; one that can do nothing else has them one after the other.

    Args:
        limit: of restarts within an hour.
        what: they are, in words.
    """

    def __init__(self, limit: int, what: str) -> None:
        self.count = 0
        """Of all times."""
        self._limit, self._what = limit, what
        self._lately: deque[tuple[float, str]] = deque()

    def record(self, cause: str) -> None:
        """Raises ``FleetError`` if it is one too many."""
        now = time.monotonic()
        self.count += 1
        while self._lately and now - self._lately[0][0] > HOUR_S:
            self._lately.popleft()
        self._lately.append((now, cause))
        if len(self._lately) > self._limit:
            raise FleetError(
                f"gave up after {self._limit} {self._what} within an hour (fleet.max_restarts); the first one was because: "
                f"{self._lately[0][1]}"
            )


class Restarts:
    """Of a fleet's actors."""

    def __init__(self, limit: int, announce: Callable[[str], None]) -> None:
        self._limit = RestartLimit(limit, "actor restarts")
        self._announce = announce

    @property
    def count(self) -> int:
        return self._limit.count

    def record(self, identity: ActorIdentity, cause: str, who: str | None = None) -> ActorIdentity:
        """Returns the identity to start again with. Raises ``FleetError`` if there were too many."""
        self.count_one(who or f"actor {identity.actor_id}", cause)
        return identity._replace(incarnation=identity.incarnation + 1)

    def count_one(self, who: str, cause: str) -> None:
        """Raises ``FleetError`` if there were too many."""
        self._limit.record(cause)
        self._announce(f"{who} restarted ({self.count} restarts so far): {cause}")


class LocalFleet(Generic[C]):
    """All actors in this process, one unroll at a time, no Ray: for tests, debugging, and machines where Ray is not wanted.

    Args:
        build: makes each of them; raises what a configuration that cannot work raises, and ``EnvironmentFailure``.
    """

    def __init__(
        self,
        config: TrainConfig,
        num_actors: int,
        state: FleetState,
        announce: Callable[[str], None],
        build: WorkerBuilder[C],
    ) -> None:
        prepare_process(config.actors.threads)
        self.num_actors = num_actors
        self._build = build
        self._restarts = Restarts(config.fleet.max_restarts, announce)
        self._submitted: deque[tuple[int, WeightsSnapshot]] = deque()
        identities = [first_identity(config, actor_id, state) for actor_id in range(num_actors)]
        self._actors: list[Worker[C]] = [
            build(identity, state.actors.get(identity.actor_id)) for identity in identities
        ]

    @property
    def actor_ids(self) -> Sequence[int]:
        return range(self.num_actors)

    @property
    def member_ids(self) -> Sequence[int]:
        return self.actor_ids

    @property
    def restarts(self) -> int:
        return self._restarts.count

    def publish(self, snapshot: WeightsSnapshot) -> WeightsSnapshot:
        return snapshot

    def submit(self, member_id: int, weights: WeightsSnapshot) -> None:
        self._submitted.append((member_id, weights))

    def resize(self, batch_segments: int, max_lag: int) -> None:
        pass

    def wait(self, timeout_s: float) -> list[FinishedUnroll[C]]:
        del timeout_s  # it runs the unroll itself
        if not self._submitted:
            return []
        actor_id, weights = self._submitted.popleft()
        return [FinishedUnroll(actor_id, self._unroll(actor_id, weights))]

    def _unroll(self, actor_id: int, weights: WeightsSnapshot) -> C:
        while True:
            actor = self._actors[actor_id]
            try:
                return actor.unroll(weights)
            except EnvironmentFailure as failure:
                self.replace(actor_id, str(failure))

    def replace(self, actor_id: int, cause: str) -> None:
        """Starts the next incarnation of an actor; one whose environment does not start counts again."""
        identity = self._actors[actor_id].identity
        self._actors[actor_id].close()
        while True:
            identity = self._restarts.record(identity, cause)
            try:
                self._actors[actor_id] = self._build(identity, None)
            except EnvironmentFailure as failure:
                cause = str(failure)
            else:
                return

    def get_state(self, limit_s: float | None = None) -> FleetState:
        del limit_s  # nothing is running
        states = {actor.identity.actor_id: actor.get_state() for actor in self._actors}
        return FleetState(
            incarnations={actor.identity.actor_id: actor.identity.incarnation for actor in self._actors},
            actors={actor_id: state for actor_id, state in states.items() if state is not None},
        )

    def resource_usage(self) -> dict[str, float | None]:
        return {"object_store_bytes": 0.0, "actors_alive": float(self.num_actors)}

    def close(self) -> None:
        for actor in self._actors:
            actor.close()
