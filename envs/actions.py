"""What an environment lets a policy choose, and what stands for "no action yet". Numpy only: the distributions are in rtrl_core."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNBOUNDED = 1e30
"""A bound beyond it is none: some write the largest float where they mean infinity."""


@dataclass(frozen=True, slots=True)
class Discrete:
    """Actions ``0 .. num_actions - 1``, sent as int64 ``[B]``."""

    num_actions: int

    def zeros(self, num_envs: int) -> np.ndarray:
        return np.zeros(num_envs, np.int64)

    def caption(self, action: np.ndarray, meanings: Sequence[str]) -> str:
        """One stream's action for people."""
        return meanings[int(action)] if meanings else str(int(action))


@dataclass(frozen=True, slots=True)
class MultiDiscrete:
    """Several choices at once, the k-th among ``0 .. sizes[k] - 1``, sent as int64 ``[B, K]``."""

    sizes: tuple[int, ...]

    def zeros(self, num_envs: int) -> np.ndarray:
        return np.zeros((num_envs, len(self.sizes)), np.int64)

    def caption(self, action: np.ndarray, meanings: Sequence[str]) -> str:
        return " ".join(map(str, action.tolist()))


@dataclass(frozen=True, slots=True)
class Continuous:
    """Real vectors in the policy's own unit, sent as float32 ``[B, size]``: -1 is ``low`` and 1 is ``high``.

    A policy's sample may lie outside, and the environment gets the nearest bound. The log-probability that is differentiated is
    that of the sample itself, of which the environment's action is a function: nothing is left out. The density of the action
    differs from it by a constant of the box, which has no gradient and cancels in every ratio.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        return len(self.low)

    def zeros(self, num_envs: int) -> np.ndarray:
        return np.zeros((num_envs, self.size), np.float32)

    def scaled(self, actions: np.ndarray) -> np.ndarray:
        """What the environment gets, float64 ``[..., size]``, dimension by dimension.

        A dimension with one bound keeps the environment's unit and has its bound at -1 or 1; one without bounds is as it is.
        """
        low, high = np.array(self.low), np.array(self.high)
        no_low, no_high = low <= -UNBOUNDED, high >= UNBOUNDED
        below, above = np.where(no_low, 0.0, low), np.where(no_high, 0.0, high)
        neither = no_low & no_high
        unit = np.where(no_low | no_high, 1.0, (above - below) / 2)
        centre = np.select([neither, no_low, no_high], [0.0, above - 1, below + 1], (above + below) / 2)
        return np.clip(centre + unit * actions, low, high)

    def caption(self, action: np.ndarray, meanings: Sequence[str]) -> str:
        return " ".join(f"{value:+.3g}" for value in self.scaled(action).tolist())
