"""Where a fleet has actors: so many on each node that lives."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from conf.schema import TrainConfig

BYTES_OF_ONE = 500_000_000
"""Of memory that an actor should have, where their number is left open."""


def rooms(nodes: Iterable[Mapping[str, Any]], config: TrainConfig, here: str) -> dict[str, int]:
    """How many actors each living node has room for, by its id; nodes without room are there with 0.

    Args:
        nodes: as ``ray.nodes()`` has them.
        here: the node of the driver, and of a learner that asks for no GPU.
    """
    found: dict[str, int] = {}
    for name, cpus, resources in _living(nodes, config, here):
        limits = [int(cpus / max(1.0, config.actors.num_cpus))]
        if config.actors.num_gpus:
            limits.append(int(resources.get("GPU", 0.0) / config.actors.num_gpus))
        if "memory" in resources:
            limits.append(max(1, int(resources["memory"] / BYTES_OF_ONE)))
        found[name] = max(0, min(limits))
    return found


def capacities(nodes: Iterable[Mapping[str, Any]], config: TrainConfig, here: str) -> dict[str, float]:
    """How many actors of a fleet of fixed size Ray would place on each living node; arguments as ``rooms``. Where they ask for no cores,
    one per core."""
    found: dict[str, float] = {}
    for name, cpus, resources in _living(nodes, config, here):
        found[name] = cpus / (config.actors.num_cpus or 1.0)
        if config.actors.num_gpus:
            found[name] = min(found[name], resources.get("GPU", 0.0) / config.actors.num_gpus)
    return found


def _living(
    nodes: Iterable[Mapping[str, Any]], config: TrainConfig, here: str
) -> Iterator[tuple[str, float, Mapping[str, float]]]:
    """The id of each node, its cores for actors, and all that it has."""
    for node in nodes:
        if node["Alive"]:
            resources: Mapping[str, float] = node["Resources"]
            is_the_learners = node["NodeID"] == here and not config.learner.num_gpus
            yield (
                node["NodeID"],
                resources.get("CPU", 0.0) - is_the_learners * config.learner.num_cpus,
                resources,
            )
