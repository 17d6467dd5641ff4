"""Between gymnasium's spaces and ours: what a network can read of an observation, and what a policy can choose.

Pictures are boxes of bytes or truths with two or three axes, or of floats with three. Everything else is one vector, the parts of
a space side by side: numbers as they are, bytes from 0 to 1, choices one-hot. A space that is not here is refused.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from typing import Any, Literal, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.actions import UNBOUNDED, Continuous, Discrete, MultiDiscrete
from envs.base import Layout, UnknownEnvironment

Space = gymnasium.Space[Any]
Dtype = Literal["uint8", "float32"]
Convert = Callable[[np.ndarray], np.ndarray]


class ObservationReader(Protocol):
    """Turns a batch of a space's observations into ``[B, *shape]`` of ours, owned by the receiver."""

    shape: tuple[int, ...]
    dtype: Dtype
    layout: Layout

    def __call__(self, batch: Any) -> np.ndarray: ...


def observation_reader(name: str, space: Space) -> ObservationReader:
    """Raises ``UnknownEnvironment`` for a space that no network here can read."""
    return ImageReader(space) if _is_image(space) else VectorReader(name, space)


class ImageReader:
    """Bytes as they are, truths as black and white; floats from 0 to 1 by their bounds, or as they are without bounds."""

    def __init__(self, space: Space) -> None:
        assert isinstance(space, spaces.Box)
        self.shape = space.shape if len(space.shape) == 3 else (*space.shape, 1)
        self.layout: Layout = "CHW" if len(space.shape) == 3 and self.shape[0] <= self.shape[2] else "HWC"
        kind = space.dtype.kind
        self.dtype: Dtype = "float32" if kind == "f" else "uint8"
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        self._bounds = (low, high) if kind == "f" and np.maximum(-low, high).max() < UNBOUNDED else None
        self._white = 255 if kind == "b" else 1

    def __call__(self, batch: Any) -> np.ndarray:
        images = np.array(batch, self.dtype)
        if self._bounds is not None:
            low, high = self._bounds
            images = (images - low) / np.where(high > low, high - low, 1)
        elif self._white != 1:
            images *= self._white
        return images.reshape(len(images), *self.shape)


class VectorReader:
    """All parts of a space, flattened, side by side."""

    layout: Layout = "vector"
    dtype: Dtype = "float32"

    def __init__(self, name: str, space: Space) -> None:
        self._parts: list[tuple[tuple[Any, ...], _Part]] = []
        for path, leaf in _leaves(space):
            part = _part(leaf)
            if part is None:
                raise UnknownEnvironment(
                    f"{name} has observations {_described(space)}, expected boxes and choices, or a Dict or Tuple of them"
                )
            self._parts.append((path, part))
        self.shape = (sum(part.size for _, part in self._parts),)

    def __call__(self, batch: Any) -> np.ndarray:
        vectors = [part.convert(np.asarray(reduce(getitem, path, batch))) for path, part in self._parts]
        return np.concatenate(vectors, axis=1, dtype=np.float32)


class _Part(NamedTuple):
    size: int
    convert: Convert
    """From a batch of the part to float32 ``[B, size]``."""


def _leaves(space: Space, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Space]]:
    """The parts that a nested space is made of, with the way to each."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield path, space
        return
    inner = space.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    for key, part in inner:
        yield from _leaves(part, (*path, key))


def _part(space: Space) -> _Part | None:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        sizes = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec).ravel()
        return _Part(int(sizes.sum()), _one_hot(sizes, np.ravel(space.start)))
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        scale = np.float32(1 / 255 if space.dtype == np.uint8 else 1)
        size = int(np.prod(space.shape))
        return _Part(size, lambda batch: batch.astype(np.float32).reshape(len(batch), size) * scale)
    return None


def _one_hot(sizes: np.ndarray, start: np.ndarray) -> Convert:
    offsets = np.cumsum(sizes) - sizes - start

    def convert(batch: np.ndarray) -> np.ndarray:
        vectors = np.zeros((len(batch), int(sizes.sum())), np.float32)
        np.put_along_axis(vectors, batch.reshape(len(batch), -1) + offsets, 1, axis=1)
        return vectors

    return convert


class ActionWriter(NamedTuple):
    spec: Discrete | MultiDiscrete | Continuous
    write: Convert
    """From a policy's actions ``[B, ...]`` to a batch of the space."""


def action_writer(name: str, space: Space) -> ActionWriter:
    """Raises ``UnknownEnvironment`` for a space that no policy here can choose from."""
    if isinstance(space, spaces.Discrete):
        return ActionWriter(Discrete(int(space.n)), lambda actions: actions + space.start)
    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.full(space.shape, 2)
        start = space.start if isinstance(space, spaces.MultiDiscrete) else 0
        return ActionWriter(
            MultiDiscrete(tuple(map(int, sizes.ravel()))),
            lambda actions: (actions.reshape(-1, *sizes.shape) + start).astype(space.dtype),
        )
    if isinstance(space, spaces.Box) and space.dtype.kind in "fiu":
        box = Continuous(tuple(map(float, space.low.ravel())), tuple(map(float, space.high.ravel())))
        whole = space.dtype.kind != "f"

        def write(actions: np.ndarray) -> np.ndarray:
            scaled = box.scaled(actions).reshape(-1, *space.shape)
            return (np.rint(scaled) if whole else scaled).astype(space.dtype)

        return ActionWriter(box, write)
    raise UnknownEnvironment(
        f"{name} has actions {_described(space)}, expected Discrete, MultiDiscrete, MultiBinary or a Box of numbers"
    )


def _is_image(space: Space) -> bool:
    if not isinstance(space, spaces.Box):
        return False
    bytes_or_truths, axes = space.dtype in (np.uint8, np.bool_), len(space.shape)
    if axes == 3:
        return (bytes_or_truths or space.dtype.kind == "f") and min(space.shape) <= 16
    return axes == 2 and bytes_or_truths


def _described(space: Space) -> str:
    """The space's own words, on one line."""
    words = " ".join(str(space).split())
    return words if len(words) < 200 else words[:200] + "..."
