"""Any gymnasium id, through gymnasium's vector environments in their SAME_STEP habit, which is ours.

How an id is found is in ``gymnasium_modules``, what spaces mean in ``gymnasium_spaces``, and what may go wrong in somebody else's
environment in ``gymnasium_edge``. The state of a gymnasium environment cannot be saved: after a resume, episodes start anew.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from conf.env_schema import EnvConfig, GymConfig
from envs.base import (
    EnvironmentFailure,
    EnvSpec,
    MissingDependency,
    Timestep,
    UnknownEnvironment,
    VectorEnv,
    spawn_seeds,
)
from envs.gymnasium_edge import Edge, kept_alive, words
from envs.gymnasium_modules import registered
from envs.gymnasium_spaces import ObservationReader, Space, action_writer, observation_reader
from envs.suite import Suite

Env = gymnasium.Env[Any, Any]
SILENT = gymnasium.logger.ERROR + 1
LAST_WORDS_S = 1.0
"""How long a process whose pipe is closed may take to be gone."""


def make(config: EnvConfig, num_envs: int, seed: int, pictures: bool = False) -> VectorEnv:
    """Raises ``UnknownEnvironment`` for an unknown id, or spaces that a network here cannot use."""
    assert isinstance(config, GymConfig)
    return GymnasiumEnv(config, num_envs, seed, pictures=pictures)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes one environment, here or in a new process, where nothing is registered yet; see ``GymnasiumEnv``."""

    name: str
    """For messages: ``suite/id``."""
    id: str
    max_episode_steps: int | None
    kwargs: dict[str, Any]
    pictures: bool
    wrap: Callable[[Env], Env]
    read: Callable[[str, Space], ObservationReader]

    def __call__(self) -> Env:
        spec = gymnasium.spec(registered(self.id))
        try:
            with kept_alive():
                env = self.wrap(self._drawing(spec) if self.pictures else self._make(spec))
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise MissingDependency(f"env={self.name} needs a package that is not installed: {error}") from None
        except (gymnasium.error.Error, TypeError, ValueError, LookupError, AssertionError) as error:
            raise UnknownEnvironment(
                f"gymnasium cannot make {self.id} with env.kwargs={self.kwargs}: {words(error)}"
            ) from None
        except (Exception, SystemExit) as error:
            raise EnvironmentFailure(f"{self.name} could not be made: {words(error)}") from None
        self.read(
            self.id, env.observation_space
        )  # here, because vector environments refuse some spaces in their own words
        action_writer(self.id, env.action_space)
        return Edge(env, self.name)

    def _drawing(self, spec: Registered) -> Env:
        """With pictures if it can: what it lists, its constructor need not know, and there may be no screen."""
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ()):
            with suppress(Exception):
                return self._make(spec, render_mode="rgb_array")
        return self._make(spec)

    def _make(self, spec: Registered, **more: Any) -> Env:
        # The edge checks what matters here, and at every step: gymnasium's own checker would only warn, of much else.
        return gymnasium.make(
            spec, max_episode_steps=self.max_episode_steps, disable_env_checker=True, **{**more, **self.kwargs}
        )


class GymnasiumEnv(VectorEnv):
    """
    Args:
        config: its ``name`` is the id.
        suite: the suite's name, for messages.
        pictures: whether ``render`` will be asked for. Many environments need a screen for it, or draw at every step.
        wrap: applied to every environment, for suites whose observations need it; a function of a module, for other processes.
        read: chooses what turns a space's observations into ours.

    Raises:
        UnknownEnvironment, MissingDependency, EnvironmentFailure: one line that names the environment, whatever goes wrong in it.
    """

    def __init__(
        self,
        config: GymConfig,
        num_envs: int,
        seed: int,
        *,
        suite: str = "gym",
        pictures: bool = False,
        wrap: Callable[[Env], Env] = lambda env: env,
        read: Callable[[str, Space], ObservationReader] = observation_reader,
    ) -> None:
        self.num_envs = num_envs
        self._seeds = spawn_seeds(seed, num_envs)
        name = f"{suite}/{config.name}"
        maker = Maker(name, config.name, config.max_episode_steps, dict(config.kwargs), pictures, wrap, read)
        self._envs = _vectorised(maker, num_envs, config.asynchronous)
        self._observation = read(config.name, self._envs.single_observation_space)
        actions, self._action = action_writer(config.name, self._envs.single_action_space)
        self.spec = EnvSpec(
            name=name,
            observation_shape=self._observation.shape,
            observation_dtype=self._observation.dtype,
            layout=self._observation.layout,
            actions=actions,
        )

    def reset(self) -> Timestep:
        with self._named("a reset"):
            observation, _ = self._envs.reset(seed=self._seeds)
        no = np.zeros(self.num_envs, bool)
        return Timestep(self._observation(observation), np.zeros(self.num_envs, np.float32), no, no, ~no, no)

    def step(self, actions: np.ndarray) -> Timestep:
        with self._named("a step"):
            taken = self._envs.step(self._action(actions))
        return self._timestep(*taken)

    def begin(self, actions: np.ndarray) -> None:
        """Environments in processes start; those in this one take the whole step in ``finish``."""
        super().begin(actions)
        if isinstance(self._envs, AsyncVectorEnv):
            with self._named("a step"):
                self._envs.step_async(self._action(actions))

    def finish(self) -> Timestep:
        if not isinstance(self._envs, AsyncVectorEnv):
            return super().finish()
        with self._named("a step"):
            taken = self._envs.step_wait()
        return self._timestep(*taken)

    def _timestep(
        self,
        observation: Any,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        info: dict[str, Any],
    ) -> Timestep:
        truncated = truncated & ~terminated
        return Timestep(
            self._observation(observation),
            np.asarray(reward, np.float32),
            terminated,
            truncated,
            terminated | truncated,
            np.ones(self.num_envs, bool),
            self._final(info["final_obs"], truncated) if truncated.any() else None,
        )

    def _final(self, observations: np.ndarray, cut: np.ndarray) -> np.ndarray:
        rows = list(observations[cut])
        space = self._envs.single_observation_space
        final = np.zeros((self.num_envs, *self.spec.observation_shape), self.spec.observation_dtype)
        final[cut] = self._observation(concatenate(space, rows, create_empty_array(space, len(rows))))
        return final

    def render(self, index: int) -> np.ndarray:
        """The environment's own ``rgb_array``, if it has one and was made with ``pictures``."""
        if self._envs.render_mode != "rgb_array":
            return super().render(index)
        try:
            with self._named("a picture"):
                return self._envs.call("render")[index]
        except gymnasium.error.DependencyNotInstalled as error:
            raise MissingDependency(f"pictures of {self.spec.name} need a package: {error}") from None

    @contextmanager
    def _named(self, where: str) -> Iterator[None]:
        """Whatever goes wrong in somebody else's environment is a failure of its own: a new one may go on."""
        try:
            with _quiet():
                yield
        except EnvironmentFailure as failure:
            raise EnvironmentFailure(str(failure)) from None
        except gymnasium.error.DependencyNotInstalled:
            raise
        except Exception as error:
            raise EnvironmentFailure(
                f"{self.spec.name} failed at {where}: {_ended(self._envs) or words(error)}"
            ) from None

    def close(self) -> None:
        try:
            with _quiet():
                self._envs.close()
        except (EOFError, OSError):  # one of its processes is dead, and gymnasium waits for its goodbye
            for process in self._envs.processes:
                process.kill()
                process.join()
            self._envs.closed = True


def _vectorised(maker: Maker, num_envs: int, asynchronous: bool) -> Any:
    try:
        if not asynchronous:
            return SyncVectorEnv([maker] * num_envs, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        # Spawned, because forking a process that has threads, as torch does, may hang.
        return AsyncVectorEnv([maker] * num_envs, context="spawn", copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    except (UnknownEnvironment, MissingDependency, EnvironmentFailure):
        raise
    except Exception as error:  # streams whose spaces differ, a process that ends at once
        raise EnvironmentFailure(f"{maker.name} could not be made: {words(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without gymnasium's own warnings: of an error in another process it would print the traceback beside raising it."""
    level = gymnasium.logger.min_level
    gymnasium.logger.min_level = SILENT
    try:
        yield
    finally:
        gymnasium.logger.min_level = level


def _ended(envs: Any) -> str | None:
    """How the first of the streams' processes that is gone has ended."""
    for stream, process in enumerate(getattr(envs, "processes", ())):
        process.join(LAST_WORDS_S / envs.num_envs)
        if process.exitcode is not None:
            return f"the process of its stream {stream} ended with exit code {process.exitcode}"
    return None


SUITE = Suite(GymConfig, make, takes_pictures=True)
