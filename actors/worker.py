"""What a fleet runs: something that turns weights into contributions, one unroll at a time. Each algorithm has its own."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from envs.base import spawn_seeds
from rtrl_core import WeightsSnapshot

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)


class ActorIdentity(NamedTuple):
    actor_id: int
    incarnation: int
    """Starts of this actor: one that was respawned draws new seeds and counts its unrolls anew."""
    seed: int
    """Of the run."""

    def spawn_seed(self, purpose: int) -> int:
        """A seed that no other actor, incarnation or purpose shares."""
        return int(
            np.random.SeedSequence([self.seed, self.actor_id, self.incarnation, purpose]).generate_state(1)[0] >> 1
        )

    @property
    def env_seed(self) -> int:
        return self.spawn_seed(0)

    @property
    def action_seed(self) -> int:
        return self.spawn_seed(1)

    def action_seeds(self, groups: int) -> list[int]:
        """Of the groups of streams that it steps one after the other."""
        return [self.action_seed] if groups == 1 else spawn_seeds(self.action_seed, groups)

    @property
    def fidelity_seed(self) -> int:
        return self.spawn_seed(5)


@runtime_checkable
class Worker(Protocol[C_co]):
    """Plain Python in one process; ``fleet.py`` and ``ray_fleet.py`` distribute it."""

    identity: ActorIdentity

    @property
    def layout(self) -> str:
        """``ParameterLayout.fingerprint`` of its network."""
        ...

    def unroll(self, weights: WeightsSnapshot) -> C_co:
        """Loads ``weights`` if they are newer, steps its streams, and returns what is shipped of it.

        A contribution is a frozen dataclass with ``header``, ``layout`` and ``statistics``, whose tensors are its bulk
        (``wire.py``).

        Raises:
            EnvironmentFailure: if the environment died: the fleet starts another worker.
        """
        ...

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit between two unrolls, or ``None`` where that cannot be saved."""
        ...

    def close(self) -> None: ...


WorkerBuilder = Callable[[ActorIdentity, dict[str, Any] | None], Worker[C]]
"""Builds a worker, new or from what its ``get_state`` returned. It can be sent to another process."""
