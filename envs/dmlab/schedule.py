"""Which level an engine prepares next, and which of the prepared ones a stream takes: how samples spread over levels."""

from collections.abc import Sequence

import numpy as np


class LevelSchedule:
    """Where there are at least as many engines as levels, each engine keeps its level: changing it costs a new process.

    Args:
        num_levels: levels to spread over.
        num_engines: streams and spares together.
        equal_samples: level out steps; otherwise each level gets its turn episode by episode, in one shuffled order.
        seed: of the order, so that actors with fewer engines than levels do not all begin with the same ones.
    """

    def __init__(self, num_levels: int, num_engines: int, equal_samples: bool, seed: int) -> None:
        self.steps = np.zeros(num_levels, np.int64)
        """Played per level."""
        self._expected_steps = np.ones(num_levels)
        self._underway = np.zeros(num_levels, np.int64)
        self._equal_samples = equal_samples
        self._keep = num_engines >= num_levels
        self._order = np.random.default_rng(seed).permutation(num_levels)
        self._turn = 0

    def next_level(self, current: int | None) -> int:
        """For an engine that plays ``current``, or has not begun."""
        if self._keep and current is not None:
            level = current
        elif self._equal_samples and current is not None:
            # What is being prepared or played already counts as the steps that it will probably bring.
            level = int(self._order[np.argmin((self.steps + self._underway * self._expected_steps)[self._order])])
        else:
            level = int(self._order[self._turn % len(self._order)])
            self._turn += 1
        self._underway[level] += 1
        return level

    def choose(self, ready: Sequence[int]) -> int:
        """Position in ``ready``, the levels of the engines that have reset, longest ready first."""
        if not self._equal_samples:
            return 0
        return int(np.argmin([self.steps[level] for level in ready]))

    def count(self, levels: np.ndarray) -> None:
        """One step in each of ``levels``, repeats included."""
        self.steps += np.bincount(levels, minlength=len(self.steps))

    def ended(self, level: int, length: int) -> None:
        """An episode is over, or was abandoned."""
        self._underway[level] -= 1
        if length:
            seen = self._expected_steps[level]
            self._expected_steps[level] = length if seen == 1 else 0.9 * seen + 0.1 * length
