"""Actors that play nothing, and fleets of them."""

import asyncio
import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray import ObjectRef

from actors.fleet import FinishedUnroll, FleetState
from actors.precision import prepare_process
from actors.ray_fleet import Member, RayFleet
from actors.wire import Envelope, PackedSnapshot, split
from actors.worker import ActorIdentity
from conf.schema import TrainConfig
from learner.aggregated_fleet import AggregatedFleet
from learner.aggregator import NodeFleet
from learner.sums import Adder
from rtrl_core import (
    ContributionHeader,
    Episode,
    GradientContribution,
    ParameterLayout,
    UnrollStatistics,
    WeightsSnapshot,
)

HOSTS = 4
"""Processes that act for all actors that send for themselves."""


class LightActor:
    """A worker whose unrolls cost nothing."""

    def __init__(self, config: TrainConfig, layout: ParameterLayout, identity: ActorIdentity) -> None:
        self.identity, self.layout = identity, layout.fingerprint
        self._steps, self._streams = config.actors.streams * config.actors.unroll, config.actors.streams
        generator = torch.Generator().manual_seed(identity.action_seed)
        self._gradient = 1e-3 * torch.randn(layout.size, generator=generator)
        self._sequence = 0

    def unroll(self, weights: WeightsSnapshot) -> GradientContribution:
        return self.sent(weights.version)

    def sent(self, version: int) -> GradientContribution:
        identity, steps = self.identity, self._steps
        header = ContributionHeader(
            identity.actor_id, identity.incarnation, self._sequence, version, steps, steps, self._streams
        )
        self._sequence += 1
        return GradientContribution(header, self.layout, self._gradient, played(steps))

    def get_state(self) -> dict[str, Any] | None:
        return None

    def close(self) -> None:
        pass


def played(steps: int) -> UnrollStatistics:
    """What is told of an unroll: with an episode in it, because those are what is long about it."""
    return UnrollStatistics(
        policy_loss=1.0,
        value_loss=1.0,
        entropy=1.0,
        target_sum=1.0,
        target_square_sum=2.0,
        error_square_sum=1.0,
        sensitivity_norm=1.0,
        sensitivity_norm_max=1.0,
        streams_reset=0,
        sensitivity_age_mean=1.0,
        sensitivity_age_max=2,
        env_time_s=0.1,
        act_time_s=0.1,
        learn_time_s=0.1,
        wait_time_s=0.0,
        rss_bytes=200_000_000,
        episodes=(Episode(1.0, steps),),
        core_inputs_rms=1.0,
        importance_sum=float(steps),
        importance_steps=steps,
    )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Builds light actors, anywhere."""

    config: TrainConfig
    layout: ParameterLayout
    period_s: float
    """How long an unroll takes."""

    def __call__(self, identity: ActorIdentity, state: dict[str, Any] | None) -> LightActor:
        del state
        return LightActor(self.config, self.layout, identity)


class Host:
    """The process that acts for several actors, whose calls overlap."""

    def __init__(self, recipe: Recipe) -> None:
        prepare_process(1)
        self._recipe = recipe
        self._actors: dict[int, LightActor] = {}

    async def ready(self) -> None:
        """It is there."""

    async def unroll(
        self, identity: ActorIdentity, weights: PackedSnapshot
    ) -> tuple[Envelope[GradientContribution], dict[str, np.ndarray]]:
        if identity.actor_id not in self._actors:
            self._actors[identity.actor_id] = self._recipe(identity, None)
        await asyncio.sleep(self._recipe.period_s)
        return split(self._actors[identity.actor_id].sent(weights.version))


class HostedFleet(RayFleet[GradientContribution]):
    """Each actor sends for itself: its calls are Ray's, its process is one of a few."""

    def __init__(self, recipe: Recipe, num_actors: int) -> None:
        self._recipe = recipe
        super().__init__(recipe.config, num_actors, FleetState(), print, recipe)

    def _begin(self, num_actors: int, state: FleetState) -> None:
        del state
        at_once = 2 * num_actors  # calls; none waits for another's sleep
        self._hosts: list[Any] = [
            ray.remote(Host).options(num_cpus=0, max_concurrency=at_once).remote(self._recipe) for _ in range(HOSTS)
        ]
        ray.get([host.ready.remote() for host in self._hosts])
        for actor_id in range(num_actors):
            identity = ActorIdentity(actor_id, 0, self._config.seed)
            self._members[actor_id] = Member(identity, self._hosts[actor_id % HOSTS], stands=True)

    def _call(self, member: Member, weights: ObjectRef) -> list[ObjectRef]:
        return member.process.unroll.options(num_returns=2).remote(member.identity, weights)

    def get_state(self, limit_s: float | None = None) -> FleetState:
        del limit_s
        return FleetState(self.incarnations, {})

    def close(self) -> None:
        for host in self._hosts:
            ray.kill(host)


class LightNodeFleet(NodeFleet):
    """The actors of a node, in its aggregator's process."""

    def _begin(self, num_actors: int, state: FleetState) -> None:
        del num_actors, state
        build: Any = self._build
        self._recipe: Recipe = build
        self._light = {identity.actor_id: self._recipe(identity, None) for identity in self._crew.identities}
        self._due: list[tuple[float, int, int]] = []
        """When each unroll is over, whose it is, and of which weights."""
        self._version: tuple[ObjectRef | None, int] = None, 0

    @property
    def member_ids(self) -> Sequence[int]:
        return list(self._light)

    @property
    def incarnations(self) -> dict[int, int]:
        return dict.fromkeys(self._light, 0)

    def submit(self, member_id: int, weights: ObjectRef) -> None:
        if weights != self._version[0]:
            self._version = weights, ray.get(weights).version
        heapq.heappush(self._due, (time.monotonic() + self._recipe.period_s, member_id, self._version[1]))

    def wait(self, timeout_s: float) -> list[FinishedUnroll[Any]]:
        now = time.monotonic()
        if self._due and self._due[0][0] > now:
            time.sleep(min(timeout_s, self._due[0][0] - now))
        finished: list[FinishedUnroll[Any]] = []
        while self._due and self._due[0][0] <= time.monotonic():
            _, actor_id, version = heapq.heappop(self._due)
            finished.append(FinishedUnroll(actor_id, self._light[actor_id].sent(version)))
        return finished

    def fetch(self, finished: Any) -> GradientContribution | None:
        return finished

    def get_state(self, limit_s: float | None = None) -> FleetState:
        del limit_s
        return FleetState(self.incarnations, {})


class NodesOfOneMachine(AggregatedFleet[GradientContribution]):
    """As many aggregators as there would be nodes, all on this one."""

    def __init__(self, recipe: Recipe, num_actors: int, adder: Adder, of_a_node: int) -> None:
        self._of_a_node, self._count = of_a_node, -(-num_actors // of_a_node)
        super().__init__(recipe.config, num_actors, FleetState(), print, recipe, adder=adder, kind=LightNodeFleet)

    def _capacities(self) -> dict[str, float]:
        return dict.fromkeys((f"node {number}" for number in range(self._count)), float(self._of_a_node))

    def _node_for(self, number: int, node: str | None) -> str:
        del number, node
        return ray.get_runtime_context().get_node_id()
