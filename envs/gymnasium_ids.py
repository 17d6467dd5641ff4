"""Any registered gymnasium id, through gymnasium's vector environments in their SAME_STEP habit, which is ours.

Actions are discrete, or real vectors (clipped to their bounds here). Observations are real vectors, images of uint8, or discrete
numbers (one-hot). The state of a gymnasium environment cannot be saved: after a resume, episodes start anew.
"""

import difflib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.spaces import Discrete as DiscreteSpace
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from conf.env_schema import EnvConfig, GymConfig
from envs.base import (
    Continuous,
    Discrete,
    EnvironmentFailure,
    EnvSpec,
    Layout,
    MissingDependency,
    Timestep,
    UnknownEnvironment,
    VectorEnv,
    spawn_seeds,
)


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    """Raises ``UnknownEnvironment`` for an unknown id or spaces that a network here cannot use."""
    assert isinstance(config, GymConfig)
    return GymnasiumEnv(config, num_envs, seed)


class GymnasiumEnv(VectorEnv):
    """
    Args:
        config: its ``name`` is the id.
        suite: the suite's name, for messages.
        wrap: applied to every environment, for suites whose observations need it.
    """

    def __init__(
        self,
        config: GymConfig,
        num_envs: int,
        seed: int,
        suite: str = "gym",
        wrap: Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]] = lambda env: env,
    ) -> None:
        self.num_envs = num_envs
        self._seeds = spawn_seeds(seed, num_envs)
        _require_registered(config.name)

        def create() -> gymnasium.Env[Any, Any]:
            return wrap(gymnasium.make(config.name, max_episode_steps=config.max_episode_steps, **config.kwargs))

        try:
            if config.asynchronous:
                # Spawned, because forking a process that has threads, as torch does, may hang.
                self._envs: Any = AsyncVectorEnv(
                    [create] * num_envs, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP
                )
            else:
                self._envs = SyncVectorEnv([create] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        except gymnasium.error.DependencyNotInstalled as error:
            raise MissingDependency(
                f"env={suite}/{config.name} needs a package that is not installed: {error}"
            ) from None
        except (gymnasium.error.Error, TypeError) as error:
            raise UnknownEnvironment(
                f"gymnasium cannot make {config.name} with env.kwargs={config.kwargs}: {error}"
            ) from None
        self._observation = _observation_reader(config.name, self._envs.single_observation_space)
        self.spec = EnvSpec(
            name=f"{suite}/{config.name}",
            observation_shape=self._observation.shape,
            observation_dtype=self._observation.dtype,
            layout=self._observation.layout,
            actions=_actions(config.name, self._envs.single_action_space),
        )

    def reset(self) -> Timestep:
        observation, _ = self._envs.reset(seed=self._seeds)
        no = np.zeros(self.num_envs, bool)
        return Timestep(self._observation(observation), np.zeros(self.num_envs, np.float32), no, no, ~no, no)

    def step(self, actions: np.ndarray) -> Timestep:
        if isinstance(self.spec.actions, Continuous):
            actions = np.clip(actions, self.spec.actions.low, self.spec.actions.high).astype(np.float32)
        else:
            actions = actions + self._envs.single_action_space.start
        try:
            observation, reward, terminated, truncated, info = self._envs.step(actions)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise EnvironmentFailure(f"a process of {self.spec.name} ended: {type(error).__name__}") from error
        truncated = truncated & ~terminated
        final = None
        if truncated.any():
            final = np.zeros((self.num_envs, *self.spec.observation_shape), self.spec.observation_dtype)
            for stream in np.flatnonzero(truncated):
                final[stream] = self._observation(info["final_obs"][stream][None])[0]
        return Timestep(
            self._observation(observation),
            np.asarray(reward, np.float32),
            terminated,
            truncated,
            terminated | truncated,
            np.ones(self.num_envs, bool),
            final,
        )

    def close(self) -> None:
        self._envs.close()


class _observation_reader:
    """Turns a batch of a space's observations into what the project uses: uint8 images or float32 vectors, owned by the receiver."""

    def __init__(self, name: str, space: gymnasium.Space[Any]) -> None:
        self.layout: Layout = "vector"
        self.dtype: Any = "float32"
        self._states = 0
        if isinstance(space, DiscreteSpace):
            self._states, self._start = int(space.n), int(space.start)
            self.shape: tuple[int, ...] = (self._states,)
        elif isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3 and min(space.shape) <= 16:
            self.layout = "CHW" if space.shape[0] <= space.shape[2] else "HWC"
            self.dtype = "uint8"
            self.shape = space.shape
        elif isinstance(space, Box):
            self.shape = (int(np.prod(space.shape)),)
        else:
            raise UnknownEnvironment(
                f"{name} has observations of type {type(space).__name__}, expected one array per step: "
                f"flatten it with a gymnasium wrapper and register that under an id of its own"
            )

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        if self._states:
            return np.eye(self._states, dtype=np.float32)[batch - self._start]
        return np.array(batch, self.dtype).reshape(len(batch), *self.shape)


def _actions(name: str, space: gymnasium.Space[Any]) -> Discrete | Continuous:
    if isinstance(space, DiscreteSpace):
        return Discrete(int(space.n))
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) == 1:
        return Continuous(tuple(map(float, space.low)), tuple(map(float, space.high)))
    raise UnknownEnvironment(
        f"{name} has actions of type {type(space).__name__}, expected a discrete choice or one real vector"
    )


def _require_registered(name: str) -> None:
    """Raises ``UnknownEnvironment`` with the nearest ids; plugins that an id names (``module:Id-v0``) are imported by gymnasium."""
    if ":" in name or name in gymnasium.registry:
        return
    if name.startswith("ALE/"):
        import ale_py

        gymnasium.register_envs(ale_py)
        if name in gymnasium.registry:
            return
    close = difflib.get_close_matches(name, list(gymnasium.registry), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "gymnasium.pprint_registry() lists them"
    raise UnknownEnvironment(f"gymnasium has no environment {name!r}: {hint}")
