"""Environments as users write them, registered when this module is imported: ``env=gym/own_envs:Guess-v0``."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

PICTURE = (36, 36, 3)
TRUTH: Any = np.bool_
"""The library takes it; its annotation knows numbers only."""


def both(low: Any, high: Any) -> Any:
    return lambda answer: high if answer else low


OBSERVATIONS: dict[str, tuple[gymnasium.Space[Any], Any]] = {
    "discrete": (spaces.Discrete(2, start=-3), both(-3, -2)),
    "multi-discrete": (spaces.MultiDiscrete([3, 2], start=[5, 1]), both([7, 1], [7, 2])),
    "multi-binary": (spaces.MultiBinary((2, 2)), both([[1, 0], [0, 1]], [[1, 1], [0, 1]])),
    "dict": (
        spaces.Dict(b=spaces.Box(-1, 1, (2,)), a=spaces.Discrete(4), c=spaces.Box(0, 255, (2,), np.uint8)),
        lambda answer: {"a": 2, "b": [0.5, 2 * answer - 1], "c": np.array([9, 255 * answer], np.uint8)},
    ),
    "tuple": (
        spaces.Tuple([spaces.MultiBinary(2), spaces.Dict(x=spaces.Box(-9, 9, (1, 1)))]),
        lambda answer: ([0, 1], {"x": [[answer - 0.5]]}),
    ),
    "float64": (spaces.Box(-1, 1, (2,), np.float64), lambda answer: np.array([1.0, 2 * answer - 1])),
    "truths": (spaces.Box(0, 1, PICTURE, TRUTH), lambda answer: np.full(PICTURE, bool(answer))),
    "grey truths": (spaces.Box(0, 1, PICTURE[:2], TRUTH), lambda answer: np.full(PICTURE[:2], bool(answer))),
    "float picture": (spaces.Box(-5, 5, PICTURE), lambda answer: np.full(PICTURE, 10.0 * answer - 5)),
    "unbounded picture": (spaces.Box(-np.inf, np.inf, PICTURE), lambda answer: np.full(PICTURE, float(answer))),
}
ACTIONS: dict[str, gymnasium.Space[Any]] = {
    "discrete": spaces.Discrete(2),
    "multi-discrete": spaces.MultiDiscrete(np.array([[3, 2]]), start=np.array([[1, -1]])),
    "multi-binary": spaces.MultiBinary(3),
    "[-1, 1]": spaces.Box(-1, 1, (1,)),
    "[0, 0.1]": spaces.Box(0, 0.1, (1,)),
    "[0, 1000]": spaces.Box(0, 1000, (2, 1), np.float64),
}


class Guess(gymnasium.Env[Any, Any]):
    """Episodes of one step: the observation tells the answer, and each choice that repeats it earns its share of a reward of 1.

    Of numbers, the answer is three quarters up their box or a quarter, and the squared distance, in half widths, is taken off.
    """

    def __init__(self, observation: str = "float64", action: str = "discrete") -> None:
        self.observation_space, self._show = OBSERVATIONS[observation]
        self.action_space = ACTIONS[action]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._answer = int(self.np_random.integers(2))
        return self._show(self._answer), {}

    def step(self, action: Any):
        assert self.action_space.contains(action), action
        space = self.action_space
        if isinstance(space, spaces.Box):
            unit = 2 * (action - space.low) / (space.high - space.low) - 1
            reward = 1 - np.square(unit - (self._answer - 0.5)).mean()
        else:
            start = getattr(space, "start", 0)
            reward = np.mean(action - start == self._answer)
        return self._show(self._answer), reward, True, False, {}


class InPlace(gymnasium.Env[Any, Any]):
    """Writes every observation, ``[episode, step, chance]``, into one array; episodes of three steps that are cut off."""

    observation_space = spaces.Dict(now=spaces.Box(-1e6, 1e6, (3,)))
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self._shown = {"now": np.array([-1, 0, 0], np.float32)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._shown["now"][:] = self._shown["now"][0] + 1, 0, self.np_random.random()
        return self._shown, {}

    def step(self, action: int):
        self._shown["now"][1] += 1
        return self._shown, 0, False, self._shown["now"][1] == 3, {}


class Held(gymnasium.Env[Any, Any]):
    """Every step waits until somebody writes into the named pipe ``go``."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, folder: str) -> None:
        self._go = Path(folder) / "go"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int):
        self._go.read_bytes()
        return np.ones(1, np.float32), 1.0, False, False, {}


class Misbehaving(gymnasium.Env[Any, Any]):
    """Does what ``how`` says, in its ``at``-th step."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)

    happened = 0
    """How often any of them did."""
    at_most = 10**9
    fail_when_made_after = 10**9

    def __init__(self, how: str, at: int = 1) -> None:
        self._how, self._left = how, at
        if how == "raises when made" or Misbehaving.happened >= Misbehaving.fail_when_made_after:
            raise RuntimeError("no licence\nfor this machine")
        if how == "exits when made":
            sys.exit("no licence")

    def reset(self, **_: Any) -> Any:
        if self._how == "raises at reset":
            raise KeyError("map")
        return np.zeros(3, np.float32) if self._how == "old reset" else (np.zeros(3, np.float32), {})

    def step(self, action: int) -> Any:
        observation, reward = np.zeros(3, np.float32), 0.0
        self._left -= 1
        if self._left == 0 and Misbehaving.happened < Misbehaving.at_most:
            Misbehaving.happened += 1
            observation, reward = self._misbehave()
        answer = observation, reward, False, False, {}
        return answer[:3] + answer[4:] if self._how == "old step" else answer

    def _misbehave(self) -> Any:
        good = np.zeros(3, np.float32)
        match self._how:
            case "raises":
                raise ZeroDivisionError("somebody else's mistake")
            case "exits":
                sys.exit("the licence has expired")
            case "leaves":
                os._exit(3)
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "shape":
                return np.zeros((3, 1)), 0.0
            case "broadcasts":
                return np.zeros(1), 0.0
            case "text":
                return "three", 0.0
            case "nan":
                return np.array([0, np.nan, 0]), 0.0
            case "infinite reward":
                return good, np.inf
            case "overflow":
                return np.array([0, 0, 1e300]), 0.0
            case "two rewards":
                return good, [1.0, 2.0]
        return good, 0.0


class OldReset(gymnasium.Env[Any, Any]):
    """As it was written before gymnasium."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)

    def reset(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return np.zeros(3, np.float32)


class NoScreen(Guess):
    """Lists pictures, and is what its ``how`` says when it is asked for them."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, how: str = "takes no mode", **mode: str) -> None:
        super().__init__()
        if mode and how == "takes no mode":
            raise TypeError("NoScreen.__init__() got an unexpected keyword argument 'render_mode'")
        if mode and how == "no display":
            raise RuntimeError("no display")
        self.render_mode = mode.get("render_mode")

    def render(self) -> Any:
        raise RuntimeError("no display")


class Refused(Guess):
    def __init__(self, **spaces_: gymnasium.Space[Any]) -> None:
        super().__init__()
        self.observation_space = spaces_.get("observation", self.observation_space)
        self.action_space = spaces_.get("action", self.action_space)


OWN: tuple[Any, ...] = (Guess, InPlace, Held, Misbehaving, OldReset, NoScreen, Refused)
for kind in OWN:
    gymnasium.register(f"{kind.__name__}-v0", kind)
gymnasium.register("OnlyTogether-v0", vector_entry_point="own_envs:Guess")
