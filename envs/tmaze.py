"""T-maze: a cue at the first step, a corridor, a choice at its end. Nothing in between says what the cue was.

The return is 1 for the right choice and 0 for the wrong one, so the mean return is the success rate. With a
corridor longer than the unroll, truncated gradients cannot link the choice to the cue (Bakker 2002 has the task).
"""

from typing import Any

import numpy as np

from conf.env_schema import EnvConfig, TMazeConfig
from envs.base import Discrete, EnvSpec, Timestep, VectorEnv
from envs.random_state import get_generator_state, set_generator_state
from envs.suite import Suite


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    assert isinstance(config, TMazeConfig)
    return TMaze(num_envs, seed, config.corridor)


class TMaze(VectorEnv):
    """Observation float32 ``[B, 3]``: the cue (+1 or -1, at the first step only), corridor, junction. Actions: left, right.

    In the corridor every action walks on; an episode has ``corridor + 1`` steps, the first of each stream fewer.
    """

    def __init__(self, num_envs: int, seed: int, corridor: int) -> None:
        self.num_envs = num_envs
        self.corridor = corridor
        self.spec = EnvSpec("tmaze/tmaze", (3,), "float32", "vector", Discrete(2), action_meanings=("left", "right"))
        self._random = np.random.Generator(np.random.PCG64(seed))
        # Each stream's first corridor is shorter, by chance: otherwise all would reach their junctions at the same time, and
        # nine updates out of ten would hear of none.
        self._length = self._random.integers(1, corridor + 1, num_envs)
        self._position = np.zeros(num_envs, np.int64)
        self._cue = np.ones(num_envs, np.int64)

    def reset(self) -> Timestep:
        self._draw_cues(np.ones(self.num_envs, bool))
        no = np.zeros(self.num_envs, bool)
        return Timestep(self._observe(), np.zeros(self.num_envs, np.float32), no, no, ~no, no)

    def step(self, actions: np.ndarray) -> Timestep:
        if actions.shape != (self.num_envs,) or actions.min() < 0 or actions.max() > 1:
            raise ValueError(f"expected {self.num_envs} actions, each 0 or 1, got {actions!r}")
        done = self._position == self._length
        right = np.where(actions == 1, 1, -1) == self._cue
        reward = (done & right).astype(np.float32)
        self._position += 1
        self._position[done] = 0
        self._length[done] = self.corridor
        self._draw_cues(done)
        return Timestep(self._observe(), reward, done, np.zeros_like(done), done.copy(), np.ones_like(done))

    def _draw_cues(self, streams: np.ndarray) -> None:
        self._cue[streams] = self._random.integers(0, 2, int(streams.sum())) * 2 - 1

    def _observe(self) -> np.ndarray:
        observation = np.zeros((self.num_envs, 3), np.float32)
        observation[:, 0] = np.where(self._position == 0, self._cue, 0)
        observation[:, 1] = self._position < self._length
        observation[:, 2] = self._position == self._length
        return observation

    def get_state(self) -> dict[str, Any]:
        return {
            "position": self._position.copy(),
            "length": self._length.copy(),
            "cue": self._cue.copy(),
            "generator": get_generator_state(self._random),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._position[:] = state["position"]
        self._length[:] = state["length"]
        self._cue[:] = state["cue"]
        set_generator_state(self._random, state["generator"])


SUITE = Suite(TMazeConfig, make)
