"""Delayed match: a sample, a delay full of distractors, a probe; say whether the probe is the sample.

The return is 1 for the right answer and 0 for the wrong one: always 1 with memory of the sample, 0.5 without. Half of the probes match.
"""

from typing import Any

import numpy as np

from conf.env_schema import DelayedMatchConfig, EnvConfig
from envs.base import Discrete, EnvSpec, Timestep, VectorEnv
from envs.random_state import get_generator_state, set_generator_state
from envs.suite import Suite


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    assert isinstance(config, DelayedMatchConfig)
    return DelayedMatch(num_envs, seed, config.delay, config.symbols)


class DelayedMatch(VectorEnv):
    """Observation float32 ``[B, symbols + 2]``: a symbol, one-hot, beside "this is the sample" and "this is the probe".

    Actions: different, same; they count at the probe only. An episode has ``delay + 2`` steps, the first of each stream fewer.
    """

    def __init__(self, num_envs: int, seed: int, delay: int, symbols: int) -> None:
        self.num_envs = num_envs
        self._delay, self._symbols = delay, symbols
        self.spec = EnvSpec(
            "delayed_match/delayed_match",
            (symbols + 2,),
            "float32",
            "vector",
            Discrete(2),
            action_meanings=("different", "same"),
        )
        self._random = np.random.Generator(np.random.PCG64(seed))
        # As in the T-maze, the first delays differ: otherwise all probes would come at the same time.
        self._length = self._random.integers(1, delay + 1, num_envs) + 1
        self._position = np.zeros(num_envs, np.int64)
        self._sample = np.zeros(num_envs, np.int64)
        self._matches = np.zeros(num_envs, bool)

    def reset(self) -> Timestep:
        self._draw(np.ones(self.num_envs, bool))
        no = np.zeros(self.num_envs, bool)
        return Timestep(self._observe(), np.zeros(self.num_envs, np.float32), no, no, ~no, no)

    def step(self, actions: np.ndarray) -> Timestep:
        if actions.shape != (self.num_envs,) or actions.min() < 0 or actions.max() > 1:
            raise ValueError(f"expected {self.num_envs} actions, each 0 or 1, got {actions!r}")
        done = self._position == self._length
        reward = (done & ((actions == 1) == self._matches)).astype(np.float32)
        self._position += 1
        self._position[done] = 0
        self._length[done] = self._delay + 1
        self._draw(done)
        return Timestep(self._observe(), reward, done, np.zeros_like(done), done.copy(), np.ones_like(done))

    def _draw(self, streams: np.ndarray) -> None:
        count = int(streams.sum())
        self._sample[streams] = self._random.integers(0, self._symbols, count)
        self._matches[streams] = self._random.random(count) < 0.5

    def _observe(self) -> np.ndarray:
        first, probe = self._position == 0, self._position == self._length
        shown = self._random.integers(0, self._symbols, self.num_envs)
        other = (self._sample + 1 + shown % (self._symbols - 1)) % self._symbols
        shown = np.where(first, self._sample, np.where(probe, np.where(self._matches, self._sample, other), shown))
        observation = np.zeros((self.num_envs, self._symbols + 2), np.float32)
        observation[np.arange(self.num_envs), shown] = 1.0
        observation[:, -2], observation[:, -1] = first, probe
        return observation

    def get_state(self) -> dict[str, Any]:
        return {
            "position": self._position.copy(),
            "length": self._length.copy(),
            "sample": self._sample.copy(),
            "matches": self._matches.copy(),
            "generator": get_generator_state(self._random),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._position[:] = state["position"]
        self._length[:] = state["length"]
        self._sample[:] = state["sample"]
        self._matches[:] = state["matches"]
        set_generator_state(self._random, state["generator"])


SUITE = Suite(DelayedMatchConfig, make)
