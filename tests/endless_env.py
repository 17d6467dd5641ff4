"""An environment that ends no episode, and one stream of which may show what is no number."""

import numpy as np

from envs.base import Continuous, EnvSpec, Timestep, VectorEnv

STREAMS, BAD = 5, 2


class EndlessEnv(VectorEnv):
    """Episodes that never end, so that no reset of theirs helps; one stream may give an observation that is no number, once."""

    def __init__(self, streams: int | list[int], seed: int = 0, nan_at: int | None = None) -> None:
        numbers = list(range(streams)) if isinstance(streams, int) else streams
        self.num_envs = len(numbers)
        self.spec = EnvSpec("endless/endless", (3,), "float32", "vector", Continuous((-1.0, -1.0), (1.0, 1.0)))
        self._randoms = [np.random.default_rng([seed, stream]) for stream in numbers]
        self._nan_at = nan_at
        self._steps = 0

    def reset(self) -> Timestep:
        no = np.zeros(self.num_envs, bool)
        return Timestep(self._observe(), np.zeros(self.num_envs, np.float32), no, no, ~no, no)

    def step(self, actions: np.ndarray) -> Timestep:
        assert actions.shape == (self.num_envs, 2)
        self._steps += 1
        no = np.zeros(self.num_envs, bool)
        observation = self._observe()
        if self._steps == self._nan_at:
            observation[BAD] = np.nan
        return Timestep(observation, observation[:, 0].copy(), no, no, no, ~no)

    def _observe(self) -> np.ndarray:
        return np.stack([random.normal(size=3) for random in self._randoms]).astype(np.float32)
