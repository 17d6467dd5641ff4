"""Which level and which seed an episode gets. Plain arithmetic: the same seed gives the same levels and level seeds."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

NUM_SEEDS = 2**31 - 1
"""Seeds that the engine takes: 0 to this, exclusively. A prime."""
EXPECTED_STEPS = 900.0
"""Of an episode of a level that has not finished one yet: a minute."""


class LevelSeeds:
    """Seeds of one actor's episodes: none comes twice before all of them have come, and the order depends on ``seed``.

    Args:
        num_levels: how many there are, from ``start_level`` on; ``None`` for all that the engine takes.
    """

    def __init__(self, seed: int, num_levels: int | None, start_level: int) -> None:
        self._start, self._count = (0, NUM_SEEDS) if num_levels is None else (start_level, num_levels)
        draw = np.random.default_rng(np.random.SeedSequence([seed, 0]))
        self._next = int(draw.integers(self._count))
        # Steps of a length that shares no factor with the count visit every seed once before the first comes again.
        self._stride = int(draw.integers(1, max(2, self._count)))
        while np.gcd(self._stride, self._count) != 1:
            self._stride = self._stride % self._count + 1

    def draw(self) -> int:
        seed = self._start + self._next
        self._next = (self._next + self._stride) % self._count
        return seed


class Assignment(NamedTuple):
    level: int
    seed: int


class Schedule(ABC):
    """Plans episodes ahead of need, because an engine is opened for one level."""

    def __init__(self, num_levels: int, seeds: LevelSeeds) -> None:
        self.num_levels = num_levels
        self._seeds = seeds

    def plan(self, stream: int) -> Assignment:
        """The next episode to prepare, for a stream whose episode has ended or, before the first, for every stream in turn."""
        return Assignment(self._choose(stream), self._seeds.draw())

    def again(self, level: int) -> Assignment:
        """Another episode of a level, in place of one that its engine could not play."""
        return Assignment(level, self._seeds.draw())

    @abstractmethod
    def _choose(self, stream: int) -> int: ...

    @abstractmethod
    def accepts(self, stream: int, level: int) -> bool:
        """Whether a prepared episode of ``level`` may be the stream's next one."""

    def record(self, level: int, num_steps: int) -> None:  # noqa: B027 - only some care
        """An episode of ``level`` is over after ``num_steps``."""


class FixedSchedule(Schedule):
    """Every stream keeps its level. Consecutive streams take consecutive levels, beginning at one that depends on the seed.

    So with as many streams per actor as there are levels, each has one; with fewer, an actor plays a part of them.
    """

    def __init__(self, num_levels: int, seeds: LevelSeeds, seed: int, first_stream: int = 0) -> None:
        super().__init__(num_levels, seeds)
        offset = int(np.random.default_rng(np.random.SeedSequence([seed, 1])).integers(num_levels))
        self._offset = offset + first_stream

    def _choose(self, stream: int) -> int:
        return (self._offset + stream) % self.num_levels

    def accepts(self, stream: int, level: int) -> bool:
        return level == self._choose(stream)


class EqualSchedule(Schedule):
    """The next episode is of the level with the fewest steps, played or expected from episodes that are not over yet."""

    def __init__(self, num_levels: int, seeds: LevelSeeds, seed: int, first_stream: int = 0) -> None:
        super().__init__(num_levels, seeds)
        self._steps = np.zeros(num_levels)
        self._episodes = np.zeros(num_levels, np.int64)
        self._open = np.zeros(num_levels, np.int64)
        # Among equals, actors do not all begin with the same level, nor do the parts of one.
        order = np.random.default_rng(np.random.SeedSequence([seed, 1])).permutation(num_levels)
        self._order = np.roll(order, -first_stream)

    def _choose(self, stream: int) -> int:
        expected = np.where(self._episodes > 0, self._steps / np.maximum(self._episodes, 1), EXPECTED_STEPS)
        load = self._steps + self._open * expected
        level = int(self._order[np.argmin(load[self._order])])
        self._open[level] += 1
        return level

    def accepts(self, stream: int, level: int) -> bool:
        return True

    def record(self, level: int, num_steps: int) -> None:
        self._open[level] -= 1
        self._steps[level] += num_steps
        self._episodes[level] += 1


LEVEL_SCHEDULES: dict[str, type[FixedSchedule] | type[EqualSchedule]] = {"fixed": FixedSchedule, "equal": EqualSchedule}
