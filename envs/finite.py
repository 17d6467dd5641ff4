"""One bad number from an environment is named where it comes in, before it is in a recurrent state, a gradient or a mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from envs.base import EnvironmentFailure, Timestep, VectorEnv


class FiniteEnv(VectorEnv):
    """Another environment, whose every observation and reward is finite. Bytes always are: they cost nothing.

    Nothing is replaced: an actor whose environment gives such a number is started again, as after any failure, and counted; a
    run whose environment always does ends after ``fleet.max_restarts``.

    Raises:
        EnvironmentFailure: from ``reset``, ``step`` and ``finish``: names the environment, the stream and the number.
    """

    def __init__(self, env: VectorEnv) -> None:
        self.inner = env
        self.spec, self.num_envs = env.spec, env.num_envs

    def reset(self) -> Timestep:
        return self._checked(self.inner.reset())

    def step(self, actions: np.ndarray) -> Timestep:
        return self._checked(self.inner.step(actions))

    def begin(self, actions: np.ndarray) -> None:
        self.inner.begin(actions)

    def finish(self) -> Timestep:
        return self._checked(self.inner.finish())

    def _checked(self, now: Timestep) -> Timestep:
        self._require_finite("an observation", now.observation)
        self._require_finite("a reward", now.reward)
        if now.final_observation is not None:
            self._require_finite("a final observation", now.final_observation, now.truncated)
        return now

    def _require_finite(self, what: str, numbers: np.ndarray, streams: np.ndarray | None = None) -> None:
        if numbers.dtype.kind != "f" or np.isfinite(numbers).all():
            return
        bad = ~np.isfinite(numbers.reshape(self.num_envs, -1))
        if streams is not None:
            bad[~streams] = False
        for stream, element in np.argwhere(bad)[:1]:
            where = f" at element {element}" if numbers.ndim > 1 else ""
            value = numbers.reshape(self.num_envs, -1)[stream, element]
            raise EnvironmentFailure(f"{self.spec.name} gave stream {stream} {what} that is not finite: {value}{where}")

    def get_state(self) -> dict[str, Any] | None:
        return self.inner.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self.inner.set_state(state)

    def statistics(self) -> Mapping[str, float]:
        return self.inner.statistics()

    def notices(self) -> Sequence[str]:
        return self.inner.notices()

    def render(self, index: int) -> np.ndarray:
        return self.inner.render(index)

    def close(self) -> None:
        self.inner.close()
