"""The innermost line between this program and somebody else's environment: whatever comes over it is checked, copied and named.

Environments may write every observation into the same array, answer with numbers of any kind, in another shape than their space
says, or end their process. A vector environment does not see that, and nobody behind it could say whose fault it was.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.base import EnvironmentFailure
from envs.gymnasium_spaces import Space

FIVE = "(observation, reward, terminated, truncated, info)"


class Edge(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose answers are what its spaces say, and nobody else's arrays. Its ``info`` is dropped: nothing here reads it.

    Args:
        name: as a user writes it, for messages.

    Raises:
        EnvironmentFailure: from ``reset`` and ``step``: one line that names the environment and what it did. Nothing else but
            ``KeyboardInterrupt``, so that it can be told to another process.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            with kept_alive():
                answer: Any = self.env.reset(seed=seed, options=options)
            if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
                raise EnvironmentFailure(f"expected (observation, info), as gymnasium has it, got {_kind(answer)}")
            return owned(self.observation_space, answer[0]), {}
        except (Exception, SystemExit) as error:
            raise EnvironmentFailure(f"{self._name} failed at a reset: {words(error)}") from None

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            with kept_alive():
                answer: Any = self.env.step(action)
            if not isinstance(answer, tuple) or len(answer) != 5:
                raise EnvironmentFailure(f"expected {FIVE}, got {_kind(answer)}")
            observation, reward, terminated, truncated, _ = answer
            return owned(self.observation_space, observation), number(reward), bool(terminated), bool(truncated), {}
        except (Exception, SystemExit) as error:
            raise EnvironmentFailure(f"{self._name} failed at a step: {words(error)}") from None

    def close(self) -> None:
        with suppress(Exception, SystemExit):  # it is over: nothing can be lost any more
            super().close()


class Ended(SystemExit):
    """``os._exit`` was called."""


@contextmanager
def kept_alive() -> Iterator[None]:
    """Inside, ``os._exit`` of this thread raises: the process would be gone with its run or its actor, and nobody knew why.

    What ends the process from outside of Python, as C's ``exit`` and crashes do, still ends it.
    """
    leave, caller = os._exit, (os.getpid(), threading.get_ident())

    def ended(status: int) -> NoReturn:
        if (os.getpid(), threading.get_ident()) == caller:
            raise Ended(status)
        leave(status)  # a child of fork, or somebody else's thread

    os._exit = ended
    try:
        yield
    finally:
        os._exit = leave


def owned(space: Space, observation: Any, path: str = "observation") -> Any:
    """A copy of an observation in the types of its space.

    Raises:
        EnvironmentFailure: if it is no member: another structure, shape or kind of number, or a choice that is out of range.
            Bounds of a box are not checked: many environments exceed their own.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict) or not space.keys() <= observation.keys():
            raise EnvironmentFailure(f"{path} is {_kind(observation)}, its space has {', '.join(map(repr, space))}")
        return {key: owned(part, observation[key], f"{path}[{key!r}]") for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(observation, (tuple, list)) or len(observation) != len(space):
            raise EnvironmentFailure(f"{path} is {_kind(observation)}, its space has {len(space)} parts")
        return tuple(owned(part, observation[i], f"{path}[{i}]") for i, part in enumerate(space))
    array = _array(observation, path)
    if array.shape != space.shape:
        raise EnvironmentFailure(f"{path} has shape {array.shape}, its space has {space.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is named as that
        copy = np.array(array, space.dtype)
    if not np.can_cast(array.dtype, copy.dtype, "same_kind") and not (copy == array).all():
        raise EnvironmentFailure(f"{path} has numbers of type {array.dtype} that its space, {copy.dtype}, cannot hold")
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        choice = copy - space.start
        if (choice < 0).any() or (choice >= (space.n if isinstance(space, spaces.Discrete) else space.nvec)).any():
            raise EnvironmentFailure(f"{path} is {copy.tolist()}, which is not in {space}")
    return copy


def number(reward: Any) -> float:
    """A reward of any type that holds one number."""
    array = _array(reward, "reward")
    if array.size != 1:
        raise EnvironmentFailure(f"reward has shape {array.shape}, expected one number")
    return float(array.item())


def words(error: BaseException) -> str:
    """What an exception says, on one line; an environment that ends its process is quoted."""
    said = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        return f"it ended its process with {'os._exit' if isinstance(error, Ended) else 'sys.exit'}({error.code!r})"
    if isinstance(error, EnvironmentFailure):
        return said
    return f"{type(error).__name__} {said}".strip()


def _array(value: Any, path: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise EnvironmentFailure(f"{path} is {_kind(value)}, expected numbers")
    return array


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(repr, value)) or 'nothing'}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}"
