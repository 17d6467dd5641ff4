"""Fleet, learner and schedule of a run, without what surrounds one: no logs, no checkpoints, no end."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from actors.fleet import Fleet, FleetState
from actors.ray_fleet import RayFleet
from conf.schema import TrainConfig
from learner.algorithms import find_algorithm
from learner.clients import LearnerClient
from learner.ray_learner import RayLearner
from r2ac.training.build import describe_environment, initial_weights


@contextmanager
def training(config: TrainConfig) -> Iterator[tuple[Fleet[Any, Any], LearnerClient[Any, Any]]]:
    """On the Ray that runs. ``config`` is sized."""
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    algorithm = find_algorithm(config.algorithm)
    algorithm.require(config)
    plan = algorithm.plan(config, spec, layout)
    state = plan.first_state(vector)
    assert config.fleet.num_actors is not None
    fleet = RayFleet(config, config.fleet.num_actors, FleetState(), print, partial(algorithm.worker, config))
    with closing(fleet):
        learner = RayLearner(plan, state, newest_state=lambda: state, limits=config.fleet, announce=print)
        with closing(learner):
            yield fleet, learner
