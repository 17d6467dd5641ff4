"""Any registered gymnasium id, through gymnasium's vector environments in their SAME_STEP habit, which is ours.

Actions are discrete, or real vectors (clipped to their bounds here). Observations are real vectors, vectors of uint8 (as numbers
from 0 to 1), images of uint8, or discrete numbers (one-hot). The state of a gymnasium environment cannot be saved: after a resume,
episodes start anew.
"""

import difflib
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
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

Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    """Raises ``UnknownEnvironment`` for an unknown id or spaces that a network here cannot use."""
    assert isinstance(config, GymConfig)
    return GymnasiumEnv(config, num_envs, seed)


class GymnasiumEnv(VectorEnv):
    """
    Args:
        config: its ``name`` is the id.
        suite: the suite's name, for messages.
        wrap: applied to every environment, for suites whose observations need it; a function of a module, for other processes.
        reader: what turns a space's observations into ours.
    """

    def __init__(
        self,
        config: GymConfig,
        num_envs: int,
        seed: int,
        suite: str = "gym",
        wrap: Wrap | None = None,
        reader: "type[ObservationReader] | None" = None,
    ) -> None:
        self.num_envs = num_envs
        self._seeds = spawn_seeds(seed, num_envs)
        _require_registered(config.name)
        create = partial(_create, config.name, config.max_episode_steps, dict(config.kwargs), wrap)
        try:
            if config.asynchronous:
                # Spawned, because forking a process that has threads, as torch does, may hang.
                self._envs: Any = AsyncVectorEnv(
                    [create] * num_envs, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP
                )
            else:
                self._envs = SyncVectorEnv([create] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise MissingDependency(
                f"env={suite}/{config.name} needs a package that is not installed: {error}"
            ) from None
        except (gymnasium.error.Error, TypeError, ValueError, LookupError, AssertionError) as error:
            raise UnknownEnvironment(
                f"gymnasium cannot make {config.name} with env.kwargs={config.kwargs}: {type(error).__name__} {error}"
            ) from None
        self._observation = (reader or ObservationReader)(config.name, self._envs.single_observation_space)
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
        except Exception as error:  # whatever goes wrong in somebody else's environment, a new one may go on
            raise EnvironmentFailure(f"{self.spec.name} failed at a step: {type(error).__name__} {error}") from error
        truncated = truncated & ~terminated
        final = None
        if truncated.any():
            final = np.zeros((self.num_envs, *self.spec.observation_shape), self.spec.observation_dtype)
            for stream in np.flatnonzero(truncated):
                final[stream] = self._observation(np.asarray(info["final_obs"][stream])[None])[0]
        return Timestep(
            self._observation(observation),
            np.asarray(reward, np.float32),
            terminated,
            truncated,
            terminated | truncated,
            np.ones(self.num_envs, bool),
            final,
        )

    def render(self, index: int) -> np.ndarray:
        """The environment's own ``rgb_array``, if it has one."""
        if self._envs.render_mode != "rgb_array":
            return super().render(index)
        try:
            pictures = self._envs.call("render") if isinstance(self._envs, AsyncVectorEnv) else self._envs.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise MissingDependency(f"pictures of {self.spec.name} need a package: {error}") from None
        return pictures[index]

    def close(self) -> None:
        try:
            self._envs.close()
        except (EOFError, OSError):  # one of its processes is dead, and gymnasium waits for its goodbye
            for process in self._envs.processes:
                process.kill()
                process.join()
            self._envs.closed = True


def _create(
    name: str, max_episode_steps: int | None, kwargs: dict[str, Any], wrap: Wrap | None
) -> gymnasium.Env[Any, Any]:
    """One environment. Runs in a new process if the streams are asynchronous, where nothing is registered yet."""
    _require_registered(name)
    entry_point = gymnasium.spec(name).entry_point
    creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ()):
        kwargs = {"render_mode": "rgb_array", **kwargs}
    env = gymnasium.make(name, max_episode_steps=max_episode_steps, **kwargs)
    return env if wrap is None else wrap(env)


class ObservationReader:
    """Turns a batch of a space's observations into what the project uses: uint8 images or float32 vectors, owned by the receiver."""

    def __init__(self, name: str, space: gymnasium.Space[Any]) -> None:
        self.layout: Layout = "vector"
        self.dtype: Any = "float32"
        self._states, self._scale = 0, 1.0
        if isinstance(space, DiscreteSpace):
            self._states, self._start = int(space.n), int(space.start)
            self.shape: tuple[int, ...] = (self._states,)
        elif isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 2:
            self.layout, self.dtype, self.shape = "HWC", "uint8", (*space.shape, 1)
        elif isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3 and min(space.shape) <= 16:
            self.layout = "CHW" if space.shape[0] <= space.shape[2] else "HWC"
            self.dtype = "uint8"
            self.shape = space.shape
        elif isinstance(space, Box):
            self.shape = (int(np.prod(space.shape)),)
            self._scale = 1 / 255 if space.dtype == np.uint8 else 1.0
        else:
            raise UnknownEnvironment(
                f"{name} has observations of type {type(space).__name__}, expected one array per step: "
                f"flatten it with a gymnasium wrapper and register that under an id of its own"
            )

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        if self._states:
            return np.eye(self._states, dtype=np.float32)[batch - self._start]
        observations = np.array(batch, self.dtype).reshape(len(batch), *self.shape)
        return observations if self._scale == 1.0 else observations * np.float32(self._scale)


def _actions(name: str, space: gymnasium.Space[Any]) -> Discrete | Continuous:
    if isinstance(space, DiscreteSpace):
        return Discrete(int(space.n))
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) == 1:
        return Continuous(tuple(map(float, space.low)), tuple(map(float, space.high)))
    raise UnknownEnvironment(
        f"{name} has actions of type {type(space).__name__}, expected a discrete choice or one real vector"
    )


def _require_registered(name: str) -> None:
    """Raises ``UnknownEnvironment`` with the nearest ids, ``MissingDependency`` if the module that an id names is not there."""
    module, _, name_within = name.rpartition(":")
    if name.startswith("ALE/"):
        module = "ale_py"
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingDependency(f"env=gym/{name} needs the Python module {module}: {error}") from None
    name = name_within
    if name in gymnasium.registry:
        return
    close = difflib.get_close_matches(name, list(gymnasium.registry), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "gymnasium.pprint_registry() lists them"
    raise UnknownEnvironment(f"gymnasium has no environment {name!r}: {hint}")
