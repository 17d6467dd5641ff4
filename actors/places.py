"""Where a fleet that follows its cluster has actors: so many on each node that lives."""

from collections.abc import Iterable, Mapping
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
    for node in nodes:
        if not node["Alive"]:
            continue
        resources: Mapping[str, float] = node["Resources"]
        cpus = resources.get("CPU", 0.0)
        if node["NodeID"] == here and not config.learner.num_gpus:
            cpus -= config.learner.num_cpus
        limits = [int(cpus / max(1.0, config.actors.num_cpus))]
        if config.actors.num_gpus:
            limits.append(int(resources.get("GPU", 0.0) / config.actors.num_gpus))
        if "memory" in resources:
            limits.append(max(1, int(resources["memory"] / BYTES_OF_ONE)))
        found[node["NodeID"]] = max(0, min(limits))
    return found
