"""One unroll of B streams as time-major arrays, and the accounts of the episodes that run through it."""

from typing import Any

import numpy as np
import torch

from envs.base import Timestep
from rtrl_core.messages import Episode
from rtrl_core.shapes import Bool, Float, Shaped, Tensor


class Unroll:
    """What an unroll leaves for the loss; row ``t`` is the transition that action ``a_t`` caused. Reused from unroll to unroll."""

    def __init__(self, num_steps: int, num_envs: int, input_size: int, actions: Shaped[Tensor, "B ..."]) -> None:
        device = actions.device
        shape = (num_steps, num_envs)
        self.inputs: Float[Tensor, "T B D"] = torch.zeros(*shape, input_size, device=device)
        self.is_first: Bool[Tensor, "T B"] = torch.zeros(shape, dtype=torch.bool, device=device)
        self.actions: Shaped[Tensor, "T B ..."] = actions.new_zeros(num_steps, *actions.shape)
        self.values: Float[Tensor, "T B"] = torch.zeros(shape, device=device)
        self.rewards: Float[Tensor, "T B"] = torch.zeros(shape, device=device)
        """Clipped."""
        self.terminated = torch.zeros(shape, dtype=torch.bool, device=device)
        self.truncated = torch.zeros(shape, dtype=torch.bool, device=device)
        self.valid = torch.zeros(shape, dtype=torch.bool, device=device)
        self.next_values: Float[Tensor, "T B"] = torch.zeros(shape, device=device)
        """``V'_{t+1}``: of the next step, or of the final observation where an episode was cut off."""

    @property
    def num_envs(self) -> int:
        return self.is_first.shape[1]

    def of(self, streams: Bool[Tensor, " B"]) -> "Unroll":
        """A copy with these streams only."""
        part = object.__new__(Unroll)
        for name, rows in vars(self).items():
            setattr(part, name, rows[:, streams])
        return part


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
