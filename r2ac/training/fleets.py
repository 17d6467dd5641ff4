"""Which fleet a run on Ray has: of a fixed size or following its cluster, with contributions added up on their nodes or not."""

from collections.abc import Callable
from typing import Any

import ray

from actors.fleet import Fleet, FleetState
from actors.following_fleet import FollowingFleet
from actors.places import rooms
from actors.ray_fleet import RayFleet
from actors.worker import WorkerBuilder
from conf.schema import TrainConfig
from learner.aggregated_fleet import AggregatedFleet, AggregatedFollowingFleet
from learner.plan import AddingPlan, LearnerPlan


def open_fleet(
    config: TrainConfig,
    state: FleetState,
    announce: Callable[[str], None],
    build: WorkerBuilder[Any],
    plan: LearnerPlan[Any],
) -> Fleet[Any, Any]:
    """The fleet of a sized and settled configuration, on the Ray that runs. Raises as ``RayFleet``."""
    num_actors = config.fleet.num_actors
    assert num_actors is not None
    follows = config.fleet.follow_cluster
    if config.fleet.aggregate != "always":
        return (FollowingFleet if follows else RayFleet)(config, num_actors, state, announce, build)
    if not isinstance(plan, AddingPlan):
        raise TypeError(f"{type(plan).__name__} has no adder(): its algorithm should not say that it adds up")
    kind = AggregatedFollowingFleet if follows else AggregatedFleet
    return kind(config, num_actors, state, announce, build, adder=plan.adder())


def room_of_cluster(config: TrainConfig) -> int:
    """Actors that the cluster has room for now."""
    return sum(rooms(ray.nodes(), config, ray.get_runtime_context().get_node_id()).values())
