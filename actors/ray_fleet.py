"""The fleet on Ray: one process per actor. The driver moves references; gradients and weights go from process to process.

driver                         actor process                     learner process
submit(weights reference) -->  gets weights, takes an unroll
wait() <-- envelope            arrays into the object store    --(reference)-->  add
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple

import grpc
import numpy as np
import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.fleet import FinishedUnroll, FleetError, FleetState, Restarts, first_identity
from actors.precision import prepare_process
from actors.ray_failures import DEATHS, cause_of_death, cause_of_failed_start, is_lost_object, said
from actors.wire import Envelope, PackedSnapshot, split
from actors.worker import ActorIdentity, C, WorkerBuilder
from conf.schema import FleetConfig, TrainConfig
from envs.base import EnvironmentFailure
from rtrl_core import WeightsSnapshot

PROCESS_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # where nothing else is said: torch is told its own number
    # Each unroll takes and returns the same large blocks; given back to the system they would be paged in again every time.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(10**9),
    "MALLOC_ARENA_MAX": "2",
}
STATISTICS_S = 2.0
"""How long Ray may take to answer for its object stores."""


def process_options(fleet: FleetConfig) -> dict[str, Any]:
    """Ray's options of a process with ``PROCESS_ENVIRONMENT``.

    The processes of a Ray that we started have it from their parents; a runtime environment would start Python twice for each.
    """
    return {} if fleet.address is None else {"runtime_env": {"env_vars": PROCESS_ENVIRONMENT}}


class ActorProcess(Generic[C]):
    """An actor in its own process."""

    def __init__(
        self, build: WorkerBuilder[C], threads: int, identity: ActorIdentity, state: dict[str, Any] | None
    ) -> None:
        prepare_process(threads)
        self._actor = build(identity, state)

    def ready(self) -> str:
        """The layout of its network, once it stands."""
        return self._actor.layout

    def unroll(self, weights: PackedSnapshot) -> tuple[Envelope[C], dict[str, np.ndarray]]:
        return split(self._actor.unroll(weights.unpack()))

    def get_state(self) -> dict[str, Any] | None:
        return self._actor.get_state()


@dataclass(frozen=True, slots=True)
class ContributionReference(Generic[C]):
    """A contribution as it passes through the driver."""

    envelope: Envelope[C] | ObjectRef
    """Itself, or a reference where the driver need not look."""
    arrays: ObjectRef
    """What the envelope encloses, wherever it lies."""
    count: int = 1
    """More than one if it is the sum of several."""


class Pending(NamedTuple):
    """An unroll that a member owes."""

    answer: ObjectRef
    """What the driver is told."""
    bulk: tuple[ObjectRef, ...]
    """What is passed on."""
    weights: ObjectRef


@dataclass(slots=True)
class Member:
    """One actor: who it is, its process, and the unrolls it owes, oldest first."""

    identity: ActorIdentity
    process: Any
    pending: deque[Pending] = field(default_factory=deque)
    waiting_since: float = 0.0
    stands: bool = False
    """Whether it has answered; one that was started again may wait for a place for long."""
    node: str | None = None
    """Where it has to be; ``None`` is wherever Ray finds a place."""


class RayFleet(Generic[C]):
    """Raises ``FleetError`` if the cluster cannot place the actors, or ``build`` fails in them. Ray must be initialised."""

    _may_be_elsewhere = False
    """Whether an actor that has a node may start on another one if that has no room."""

    def __init__(
        self,
        config: TrainConfig,
        num_actors: int,
        state: FleetState,
        announce: Callable[[str], None],
        build: WorkerBuilder[C],
    ) -> None:
        self._build = build
        self._config = config
        self._announce = announce
        self._restarts = Restarts(config.fleet.max_restarts, announce)
        self._members: dict[int, Member] = {}
        self._begin(num_actors, state)

    def _begin(self, num_actors: int, state: FleetState) -> None:
        require_resources(self._config, num_actors)
        for actor_id in range(num_actors):
            identity = first_identity(self._config, actor_id, state)
            self._members[actor_id] = self._start(identity, state.actors.get(actor_id))
        self._await_start()

    @property
    def num_actors(self) -> int:
        return len(self._members)

    @property
    def actor_ids(self) -> Sequence[int]:
        return sorted(self._members)

    @property
    def member_ids(self) -> Sequence[int]:
        return sorted(self._members)

    @property
    def _unrolls_at_once(self) -> int:
        """That a member owes."""
        return self._config.fleet.in_flight

    @property
    def incarnations(self) -> dict[int, int]:
        """Of each actor."""
        return {actor_id: member.identity.incarnation for actor_id, member in self._members.items()}

    @property
    def restarts(self) -> int:
        return self._restarts.count

    def publish(self, snapshot: WeightsSnapshot) -> ObjectRef:
        return ray.put(PackedSnapshot.pack(snapshot))

    def submit(self, member_id: int, weights: ObjectRef) -> None:
        member = self._members[member_id]
        answer, *bulk = self._call(member, weights)
        if not member.pending:
            member.waiting_since = time.monotonic()
        member.pending.append(Pending(answer, tuple(bulk), weights))

    def _call(self, member: Member, weights: ObjectRef) -> list[ObjectRef]:
        """Begins an unroll; references to what is told of it, and to what is passed on."""
        return member.process.unroll.options(num_returns=2).remote(weights)

    def resize(self, batch_segments: int, max_lag: int) -> None:
        pass

    def wait(self, timeout_s: float) -> list[FinishedUnroll[ContributionReference[C]]]:
        owners = {member.pending[0].answer: member for member in self._members.values() if member.pending}
        if not owners:
            return []
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=timeout_s, fetch_local=False)
        if len(ready) == 1 and len(owners) > 1:
            ready, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0, fetch_local=False)
        finished = [unroll for reference in ready if (unroll := self._collect(owners[reference])) is not None]
        self._replace_silent()
        return finished

    def _collect(self, member: Member) -> FinishedUnroll[ContributionReference[C]] | None:
        """The oldest unroll of a member, without a contribution if it could not start; ``None`` if the member had to be replaced, or goes
        on with it."""
        pending = member.pending[0]
        try:
            answer: Any = ray.get(pending.answer)
        except EnvironmentFailure as failure:
            self._replace(member, said(failure))
            return None
        except RayError as failure:
            if (cause := cause_of_death(failure)) is not None:
                self._died(member, failure, cause)
                return None
            if not is_lost_object(failure):
                raise
            answer = None
        member.pending.popleft()
        member.stands = True
        member.waiting_since = time.monotonic()
        return self._finished(member, answer, pending)

    def _finished(
        self, member: Member, answer: Any, pending: Pending
    ) -> FinishedUnroll[ContributionReference[C]] | None:
        """What has come of an unroll: ``answer`` is what the member's process told, or ``None`` if that was lost."""
        (arrays,) = pending.bulk
        contribution = None if answer is None else ContributionReference(answer, arrays)
        return FinishedUnroll(member.identity.actor_id, contribution)

    def _died(self, member: Member, failure: RayError, cause: str) -> None:
        """What becomes of a member whose call failed in such a way that it must be gone."""
        del failure
        self._replace(member, cause)

    def replace(self, actor_id: int, cause: str) -> None:
        self._replace(self._members[actor_id], cause)

    def _replace(self, member: Member, cause: str) -> None:
        """Starts a member again and submits what it owed, with the same weights."""
        member.identity = self._restarts.record(member.identity, cause, self._name(member))
        ray.kill(member.process)
        owed, member.pending, member.stands = member.pending, deque(), False
        started = self._start(member.identity, None, member.node)
        member.process, member.node = started.process, started.node
        for pending in owed:
            self.submit(member.identity.actor_id, pending.weights)

    def _name(self, member: Member) -> str:
        return f"actor {member.identity.actor_id}"

    def _size(self, member: Member) -> int:
        """Actors that it is."""
        del member
        return 1

    def _replace_silent(self) -> None:
        limit = self._config.fleet.unroll_timeout_s
        for member in self._members.values():
            if member.pending and self._may_be_timed(member) and time.monotonic() - member.waiting_since > limit:
                self._replace(member, f"no unroll for {limit:g} s (fleet.unroll_timeout_s)")

    def _may_be_timed(self, member: Member) -> bool:
        del member
        return True

    def _start(self, identity: ActorIdentity, state: dict[str, Any] | None, node: str | None = None) -> Member:
        options = self._config.actors
        soft = self._may_be_elsewhere and options.num_cpus > 0
        place = (
            "DEFAULT"
            if node is None
            # Soft alone waits for room on that node for ever, whatever room there is on others.
            else NodeAffinitySchedulingStrategy(node, soft=soft, _spill_on_unavailable=soft)
        )
        process = (
            ray.remote(ActorProcess)
            .options(
                num_cpus=options.num_cpus,
                num_gpus=options.num_gpus,
                max_restarts=0,
                scheduling_strategy=place,
                **process_options(self._config.fleet),
            )
            .remote(self._build, options.threads, identity, state)
        )
        return Member(identity, process, node=node)

    def _await_start(self) -> None:
        """Waits until every actor stands, so that a mistake in the configuration is reported at once and as itself."""
        ready = [member.process.ready.remote() for member in self._members.values()]
        await_start(ready, self._config.fleet.start_timeout_s, "an actor", f"{self.num_actors} actors were")
        for member in self._members.values():
            member.stands = True

    def get_state(self, limit_s: float | None = None) -> FleetState:
        states = self._states(limit_s, lambda process, _: process.get_state.remote())
        return FleetState(self.incarnations, states)

    def _states(self, limit_s: float | None, ask: Callable[[Any, float], ObjectRef]) -> dict[int, Any]:
        """What members have answered in time that is not ``None``; ``ask`` takes a member's process and that time."""
        limit_s = self._config.fleet.unroll_timeout_s if limit_s is None else limit_s
        calls = {number: ask(member.process, limit_s) for number, member in self._members.items() if member.stands}
        deadline = time.monotonic() + limit_s
        states: dict[int, Any] = {}
        for number, call in calls.items():
            try:
                state: Any = ray.get(call, timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError:  # stuck: the next wait() replaces it
                continue
            except RayError as failure:
                if cause_of_death(failure) is None and not is_lost_object(failure):
                    raise
                continue  # dead: likewise
            if state is not None:
                states[number] = state
        return states

    def resource_usage(self) -> dict[str, float | None]:
        return {"object_store_bytes": object_store_bytes(), "actors_alive": float(self.num_actors)}

    def close(self) -> None:
        for member in self._members.values():
            ray.kill(member.process)


def require_resources(config: TrainConfig, num_actors: int) -> None:
    """Waits a while for nodes to join, then says what is missing instead of hanging.

    Raises:
        FleetError: if the cluster never had what the actors and the learner ask for together.
    """
    needed = {
        "CPU": num_actors * config.actors.num_cpus + config.learner.num_cpus,
        "GPU": num_actors * config.actors.num_gpus + config.learner.num_gpus,
    }
    deadline = time.monotonic() + config.fleet.placement_timeout_s
    while True:
        present = ray.cluster_resources()
        missing = {name: amount for name, amount in needed.items() if amount > present.get(name, 0.0)}
        if not missing:
            return
        if time.monotonic() >= deadline:
            wants = " and ".join(f"{amount:g} {name}" for name, amount in missing.items())
            raise FleetError(
                f"{num_actors} actors and the learner need {wants}, but the cluster has {describe_resources(present)} "
                f"(waited {config.fleet.placement_timeout_s:g} s): lower fleet.num_actors or actors.num_cpus, or add nodes"
            )
        time.sleep(0.2)


def await_start(answers: list[ObjectRef], limit_s: float, one: str, all_were: str) -> None:
    """Waits for the first answers of new processes; the texts name them in the error.

    Raises:
        FleetError: if they find no place in time, or one ends before it answers.
    """
    try:
        ray.get(answers, timeout=limit_s)
    except GetTimeoutError:
        raise FleetError(
            f"{all_were} not up after {limit_s:g} s (fleet.start_timeout_s): the cluster has "
            f"{describe_resources(ray.cluster_resources())}, free are {describe_resources(ray.available_resources())}"
        ) from None
    except DEATHS as failure:
        failed = f"{one} could not start: "
        raise FleetError(failed + cause_of_failed_start(failure).removeprefix(failed)) from None


def object_store_bytes() -> float | None:
    """Bytes in the object stores of all nodes, from Ray's own statistics: there is no public call for them.

    ``None`` if there is no answer; a run must not end, or wait for long, because it could not be measured.
    """
    from ray._private.internal_api import get_memory_info_reply

    here = ray.get_runtime_context().get_node_id()
    try:
        # Any node would answer for all; this one is there as long as we are, others may be on their way out.
        node = {node["NodeID"]: node for node in ray.nodes()}[here]
        reply: Any = get_memory_info_reply(None, node["NodeManagerAddress"], node["NodeManagerPort"], STATISTICS_S)
    except (grpc.RpcError, RayError, KeyError):
        return None
    return float(reply.store_stats.object_store_bytes_used)


def describe_resources(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"
