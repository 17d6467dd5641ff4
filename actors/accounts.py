"""What an actor counts beside the gradient: games and their returns, and how old the weights inside each sensitivity are."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from envs.base import Timestep
from rtrl_core.messages import Episode
from rtrl_core.shapes import Bool, Int, Tensor


class Played(NamedTuple):
    """What streams did in an unroll, whatever was made of it."""

    num_streams: int
    num_steps: int
    num_frames: int
    episodes: tuple[Episode, ...]
    level_steps: tuple[int, ...]
    """Of each level of a multi-task suite."""
    env_counters: dict[str, float]
    """Since the environment was made."""

    def seen_before(self) -> "Played":
        """For whoever looks a second time: nothing counts twice."""
        return self._replace(num_steps=0, num_frames=0, episodes=(), level_steps=())

    @classmethod
    def together(cls, parts: "Sequence[Played]") -> "Played":
        """Of streams that are stepped in parts."""
        counters = [part.env_counters for part in parts]
        names = dict.fromkeys(name for part in counters for name in part)
        return cls(
            sum(part.num_streams for part in parts),
            sum(part.num_steps for part in parts),
            sum(part.num_frames for part in parts),
            tuple(episode for part in parts for episode in part.episodes),
            tuple(sum(steps) for steps in zip(*(part.level_steps for part in parts), strict=True)),
            {name: sum(part.get(name, 0.0) for part in counters) for name in names},
        )


class EpisodeAccounts:
    """Running return and length of each stream's game. A lost life ends no game; steps that are no transitions count nothing."""

    def __init__(self, num_envs: int, num_levels: int) -> None:
        self.episode_return = np.zeros(num_envs, np.float64)
        self.length = np.zeros(num_envs, np.int64)
        self._num_levels = num_levels
        self.clear()

    def clear(self) -> None:
        """Starts counting for a new unroll; games go on."""
        self.num_steps = 0
        self.episodes: list[Episode] = []
        self.level_steps = np.zeros(self._num_levels, np.int64)

    def record(self, timestep: Timestep) -> None:
        valid = timestep.valid
        self.num_steps += int(valid.sum())
        self.episode_return += np.where(valid, timestep.reward, 0)
        self.length += valid
        if timestep.level is not None:
            self.level_steps += np.bincount(timestep.level[valid], minlength=self._num_levels)
        for stream in np.flatnonzero(timestep.game_over):
            level = None if timestep.level is None else int(timestep.level[stream])
            self.episodes.append(Episode(float(self.episode_return[stream]), int(self.length[stream]), level))
        begun_anew = timestep.game_over | timestep.game_lost
        self.episode_return[begun_anew] = 0.0
        self.length[begun_anew] = 0

    def get_state(self) -> dict[str, Any]:
        return {"episode_return": self.episode_return.copy(), "length": self.length.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        self.episode_return[:] = state["episode_return"]
        self.length[:] = state["length"]


class SensitivityAges:
    """For each stream, the policy version at which its present episode began: the oldest weights inside its sensitivity."""

    def __init__(self, num_envs: int) -> None:
        self.born = torch.zeros(num_envs, dtype=torch.int64)

    def after(self, is_first: Bool[Tensor, "T B"], policy_version: int) -> Int[Tensor, " B"]:
        """Ages in versions at the end of an unroll that acted with ``policy_version``, of the episodes that it found or began with."""
        self.born[is_first[0]] = policy_version
        ages = (policy_version - self.born).clamp_(min=0)
        self.born[is_first.any(0)] = policy_version
        return ages

    def begin(self, streams: Bool[Tensor, " B"], policy_version: int) -> None:
        self.born[streams] = policy_version
