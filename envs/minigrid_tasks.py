"""MiniGrid: rooms seen through a small window. Its Memory tasks are the established memory suite of this project.

Chosen among MiniGrid, POPGym and ViZDoom because it installs with present numpy and gymnasium, from wheels, without system packages.
The mission text is left out, as it never changes within a Memory task.
"""

from typing import Any

import numpy as np

from conf.env_schema import EnvConfig, GymConfig, MiniGridConfig
from envs.base import Layout, MissingDependency, VectorEnv
from envs.gymnasium_ids import GymnasiumEnv
from envs.gymnasium_spaces import Dtype, Space
from envs.suite import Suite

OBJECTS, COLOURS, STATES = 11, 6, 4
"""Codes that MiniGrid uses per cell: ``minigrid.core.constants``; the fourth state is a direction's."""


def make(config: EnvConfig, num_envs: int, seed: int, pictures: bool = False) -> VectorEnv:
    """Raises ``UnknownEnvironment`` for a task that MiniGrid does not have, ``MissingDependency`` without it."""
    assert isinstance(config, MiniGridConfig)
    try:
        from minigrid.wrappers import ImgObsWrapper  # registers the tasks, too
    except ImportError as error:
        raise MissingDependency(f"env=minigrid needs the package minigrid ({error}): pip install minigrid") from None
    name = config.name if config.name.startswith("MiniGrid-") else f"MiniGrid-{config.name}"
    name = name if name.rpartition("-v")[2].isdigit() else f"{name}-v0"
    task = GymConfig(name=name, max_episode_steps=config.max_episode_steps)
    return GymnasiumEnv(
        task, num_envs, seed, suite="minigrid", pictures=pictures, wrap=ImgObsWrapper, read=WindowReader
    )


class WindowReader:
    """The window's cells as a float32 vector: object, colour and state of each, one-hot, because the codes are names, not sizes."""

    layout: Layout = "vector"
    dtype: Dtype = "float32"

    def __init__(self, name: str, space: Space) -> None:
        assert space.shape is not None
        height, width, _ = space.shape
        self.shape = (height * width * (OBJECTS + COLOURS + STATES),)

    def __call__(self, batch: Any) -> np.ndarray:
        parts = [
            np.eye(count, dtype=np.float32)[batch[..., part]] for part, count in enumerate((OBJECTS, COLOURS, STATES))
        ]
        return np.concatenate(parts, axis=-1).reshape(len(batch), -1)


SUITE = Suite(MiniGridConfig, make, takes_pictures=True)
