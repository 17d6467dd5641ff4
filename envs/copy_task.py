"""Copy task as a game: bits are shown one after the other, then asked for again in the same order.

Every bit counts, zeros and ones alike: the return is the share of right answers, 1 with memory and 0.5 without, whatever a
player answers blindly (the paper's own loader left half of the bits out). The supervised form is ``rtrl-copy``.
"""

from typing import Any

import numpy as np

from conf.env_schema import CopyTaskConfig, EnvConfig
from envs.base import Discrete, EnvSpec, Timestep, VectorEnv
from envs.random_state import get_generator_state, set_generator_state
from envs.suite import Suite


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    assert isinstance(config, CopyTaskConfig)
    return CopyTask(num_envs, seed, config.length, config.delay)


class CopyTask(VectorEnv):
    """Observation float32 ``[B, 3]``: the bit (+1 or -1, while it is shown), "shown now", "asked now". Actions: zero, one.

    An episode has ``2 length + delay`` steps, the first of each stream fewer; actions count where something is asked.
    """

    def __init__(self, num_envs: int, seed: int, length: int, delay: int) -> None:
        self.num_envs = num_envs
        self._full_length, self._delay = length, delay
        self.spec = EnvSpec(
            "copy_task/copy_task", (3,), "float32", "vector", Discrete(2), action_meanings=("zero", "one")
        )
        self._random = np.random.Generator(np.random.PCG64(seed))
        # As in the T-maze, first episodes differ in length: otherwise all streams would be asked at the same time.
        self._length = self._random.integers(1, length + 1, num_envs)
        self._position = np.zeros(num_envs, np.int64)
        self._bits = np.zeros((num_envs, length), np.int64)

    def reset(self) -> Timestep:
        self._draw_bits(np.ones(self.num_envs, bool))
        no = np.zeros(self.num_envs, bool)
        return Timestep(self._observe(), np.zeros(self.num_envs, np.float32), no, no, ~no, no)

    def step(self, actions: np.ndarray) -> Timestep:
        if actions.shape != (self.num_envs,) or actions.min() < 0 or actions.max() > 1:
            raise ValueError(f"expected {self.num_envs} actions, each 0 or 1, got {actions!r}")
        asked = self._position - self._length - self._delay
        right = actions == self._bit(asked)
        reward = np.where((asked >= 0) & right, 1.0 / self._length, 0.0).astype(np.float32)
        done = asked == self._length - 1
        self._position += 1
        self._position[done] = 0
        self._length[done] = self._full_length
        self._draw_bits(done)
        return Timestep(self._observe(), reward, done, np.zeros_like(done), done.copy(), np.ones_like(done))

    def _bit(self, index: np.ndarray) -> np.ndarray:
        """The bit at each stream's ``index``, anything where that is outside the sequence."""
        return self._bits[np.arange(self.num_envs), index.clip(0, self._full_length - 1)]

    def _draw_bits(self, streams: np.ndarray) -> None:
        self._bits[streams] = self._random.integers(0, 2, (int(streams.sum()), self._full_length))

    def _observe(self) -> np.ndarray:
        shown = self._position < self._length
        observation = np.zeros((self.num_envs, 3), np.float32)
        observation[:, 0] = np.where(shown, 2 * self._bit(self._position) - 1, 0)
        observation[:, 1] = shown
        observation[:, 2] = self._position >= self._length + self._delay
        return observation

    def get_state(self) -> dict[str, Any]:
        return {
            "position": self._position.copy(),
            "length": self._length.copy(),
            "bits": self._bits.copy(),
            "generator": get_generator_state(self._random),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._position[:] = state["position"]
        self._length[:] = state["length"]
        self._bits[:] = state["bits"]
        set_generator_state(self._random, state["generator"])


SUITE = Suite(CopyTaskConfig, make)
