"""How an Atari episode opens in the paper's preprocessing: presses before the agent's first decision, and a fresh stack of frames.

    a game starts       FIRE, third action             in games that have FIRE
    a life was lost     no-op, FIRE, third action      the no-op alone in games that have none

Without them a policy that never presses FIRE waits in front of a ball that is not served until the game is cut off. Each press takes
a step whose row is not valid, because the agent's action is ignored in it. What is seen after the last press begins the episode, and
its stack holds nothing older. Source: ``EpisodicLifeEnv``, ``FireResetEnv`` and ``FrameStack`` in the official ``atari_wrappers.py``.
"""

from collections.abc import Sequence

import numpy as np

NOOP, THIRD = 0, 2


def presses(actions: Sequence[str], fire: bool) -> tuple[int, ...]:
    """What opens a life, as indices into the names of the game's ``actions``; all but the no-op open a game."""
    return (NOOP, actions.index("fire"), THIRD)[: len(actions)] if fire and "fire" in actions else (NOOP,)


class Openings:
    """Where each stream is in its opening. Without ``presses`` nothing is ever pressed and stacks stay as they are."""

    def __init__(self, num_envs: int, presses: tuple[int, ...]) -> None:
        self._presses = np.array(presses, np.int64)
        self._next = np.ones(num_envs, np.int64)
        self._age = np.zeros(num_envs, np.int64)

    @property
    def under_way(self) -> np.ndarray:
        """bool ``[B]``: streams whose next step is a press."""
        return self._next < len(self._presses)

    def press(self, actions: np.ndarray) -> np.ndarray:
        """The actions to take, ``[B]``: the agent's, and a press where one is due, which is then behind it."""
        due = self.under_way
        actions = actions.copy()
        actions[due] = self._presses[self._next[due]]
        self._next[due] += 1
        return actions

    def begin(self, games: np.ndarray, lives: np.ndarray) -> None:
        """Openings begin in the streams of two masks, bool ``[B]``: those of a new game, and of a new life in the same game."""
        self._next[lives] = 0
        self._next[games] = 1

    def restack(self, stacks: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        """Once per step: frames older than their episode become its first one. ``stacks`` uint8 ``[B, stack, H, W]``, newest last."""
        self._age = np.where(is_first, 0, self._age + 1)
        return self._of_episode(stacks, self._age)

    def restack_last(self, stacks: np.ndarray) -> np.ndarray:
        """The same for what this step would have shown if its stream had not begun anew; before ``restack``."""
        return self._of_episode(stacks, self._age + 1)

    def _of_episode(self, stacks: np.ndarray, age: np.ndarray) -> np.ndarray:
        newest = stacks.shape[1] - 1
        for stream in np.flatnonzero(age < newest) if len(self._presses) else ():
            first = newest - age[stream]
            stacks[stream, :first] = stacks[stream, first]
        return stacks
