"""An actor and its environments, or neither."""

from collections.abc import Callable
from typing import Any, TypeVar

from actors.base_actor import BaseActor
from actors.worker import ActorIdentity
from conf.schema import TrainConfig
from envs.base import VectorEnv
from envs.registry import make_parts

A = TypeVar("A", bound=BaseActor[Any])


def open_actor(
    config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None, build: Callable[[list[VectorEnv]], A]
) -> A:
    """The actor that ``build`` makes for its environments, new or from what its ``get_state`` returned.

    Raises:
        UnknownEnvironment, MissingDependency, ValueError: for a configuration that cannot work.
        EnvironmentFailure: if an environment does not start.
    """
    actors = config.actors
    envs = make_parts(config.env, actors.streams, identity.env_seed, actors.pipeline)
    try:
        actor = build(envs)
        if state is not None:
            actor.set_state(state)
    except Exception:
        for env in envs:
            env.close()
        raise
    return actor
