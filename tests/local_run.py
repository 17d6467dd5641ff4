"""Fleet and learner of a configuration in this process, as the program builds them, for tests that look at what passes between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from patience import patience

from actors.fleet import FleetState, LocalFleet
from conf.schema import TrainConfig
from envs.base import EnvSpec
from learner.algorithms import find_algorithm
from learner.plan import LearnerPlan
from r2ac.training.build import describe_environment, initial_weights
from rtrl_core import WeightsSnapshot


class LocalRun(NamedTuple):
    spec: EnvSpec
    vector: torch.Tensor
    """First weights."""
    plan: LearnerPlan[Any]
    first: dict[str, Any]
    """State of the learner."""
    fleet: LocalFleet[Any]

    def unroll(self, actor_id: int, weights: WeightsSnapshot) -> Any:
        """The contribution of one actor."""
        self.fleet.submit(actor_id, weights)
        (finished,) = self.fleet.wait(patience(0))
        return finished.contribution


def local_run(config: TrainConfig, state: FleetState | None = None) -> LocalRun:
    """``config`` is sized. Whoever asks for the fleet, new or as it was saved, closes it."""
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    algorithm = find_algorithm(config.algorithm)
    algorithm.require(config)
    plan = algorithm.plan(config, spec, layout)
    assert config.fleet.num_actors is not None
    fleet = LocalFleet(config, config.fleet.num_actors, state or FleetState(), print, partial(algorithm.worker, config))
    return LocalRun(spec, vector, plan, plan.first_state(vector), fleet)


@contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
