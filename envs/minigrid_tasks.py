"""MiniGrid: rooms seen through a small window. Its Memory tasks are the established memory suite of this project.

Chosen among MiniGrid, POPGym and ViZDoom because it installs with present numpy and gymnasium, from wheels, without system packages.
Observations are the 7x7 window with object, colour and state per cell, as a uint8 image; the mission text is left out, as it
never changes within a Memory task.
"""

from conf.env_schema import EnvConfig, GymConfig, MiniGridConfig
from envs.base import MissingDependency, VectorEnv
from envs.gymnasium_ids import GymnasiumEnv


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    """Raises ``UnknownEnvironment`` for a task that MiniGrid does not have, ``MissingDependency`` without it."""
    assert isinstance(config, MiniGridConfig)
    try:
        from minigrid.wrappers import ImgObsWrapper  # registers the tasks, too
    except ImportError as error:
        raise MissingDependency(f"env=minigrid needs the package minigrid ({error}): pip install minigrid") from None
    name = config.name if config.name.startswith("MiniGrid-") else f"MiniGrid-{config.name}"
    name = name if name.rpartition("-v")[2].isdigit() else f"{name}-v0"
    task = GymConfig(name=name, max_episode_steps=config.max_episode_steps)
    return GymnasiumEnv(task, num_envs, seed, suite="minigrid", wrap=ImgObsWrapper)
