"""Algorithms by name: what becomes of an unroll where it was collected, and how what is shipped becomes weights.

r2ac    actor: rollout -> gradient      wire: gradient      learner: add, update
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

from actors.actor import Actor, build_actor
from actors.parts import find, with_options
from actors.worker import ActorIdentity, C, Worker
from conf.schema import AlgorithmConfig, TrainConfig
from learner.learner import GradientPlan
from learner.plan import LearnerPlan
from rtrl_core import GradientContribution, ParameterLayout


class Algorithm(ABC, Generic[C]):
    """The two ends of the wire, and ``C`` is what crosses it. Its options are the fields of its dataclass.

    It is sent to the actors' processes: it holds its options and nothing else.
    """

    name: ClassVar[str]

    @abstractmethod
    def worker(self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None) -> Worker[C]:
        """What an actor's process runs, new or from what its ``get_state`` returned.

        Raises:
            UnknownEnvironment, MissingDependency, ValueError: for a configuration that cannot work.
            EnvironmentFailure: if the environment does not start.
        """

    @abstractmethod
    def plan(self, config: TrainConfig, layout: ParameterLayout) -> LearnerPlan[C]:
        """How its learner is made, for a configuration whose sizes are all known."""


@dataclass(frozen=True, slots=True)
class R2AC(Algorithm[GradientContribution]):
    """Actor-critic whose actors ship exact gradients (Irie et al. 2024)."""

    name: ClassVar[str] = "r2ac"

    def worker(self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None) -> Actor:
        return build_actor(config, identity, state)

    def plan(self, config: TrainConfig, layout: ParameterLayout) -> GradientPlan:
        """In ``sync`` and ``lockstep`` a batch is a round of the whole fleet, and the schedule ends it."""
        batch = config.learner.batch_segments
        assert batch is not None, "r2ac.training.sizing says how many"
        by_number = config.learner.mode == "async"
        return GradientPlan(config.learner, layout, batch if by_number else None, config.total_steps)


ALGORITHMS: dict[str, type[Algorithm[Any]]] = {algorithm.name: algorithm for algorithm in (R2AC,)}


def find_algorithm(config: AlgorithmConfig) -> Algorithm[Any]:
    """By its name, or as a user typed it.

    Raises:
        ConfigError: for an unknown name or option, or a class that is none.
    """
    part = find("algorithm.name", config.name, ALGORITHMS, (Algorithm,))
    return with_options(part, config.options, "algorithm.options", config.name)
