"""An actor and its environment, or neither."""

from collections.abc import Callable
from typing import Any, TypeVar

from actors.base_actor import BaseActor
from actors.worker import ActorIdentity
from conf.schema import TrainConfig
from envs.base import VectorEnv
from envs.registry import make_env

A = TypeVar("A", bound=BaseActor[Any])


def open_actor(
    config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None, build: Callable[[VectorEnv], A]
) -> A:
    """The actor that ``build`` makes for its environment, new or from what its ``get_state`` returned.

    Raises:
        UnknownEnvironment, MissingDependency, ValueError: for a configuration that cannot work.
        EnvironmentFailure: if the environment does not start.
    """
    env = make_env(config.env, config.actors.num_envs, identity.env_seed)
    try:
        actor = build(env)
        if state is not None:
            actor.set_state(state)
    except Exception:
        env.close()
        raise
    return actor
