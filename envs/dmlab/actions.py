"""The two action sets of the literature, as the engine's seven numbers.

``(look left/right, look up/down, strafe, move, fire, jump, crouch)``, in pixels per frame and units of -1, 0, 1. ``nine`` is
IMPALA's (Espeholt et al. 2018, Table D.2) and the paper's; ``fifteen`` is the one of PopArt-IMPALA (Hessel et al. 2019) and R2D2.
"""

import numpy as np

_FORWARD, _BACK = (0, 0, 0, 1, 0, 0, 0), (0, 0, 0, -1, 0, 0, 0)
_STRAFE_LEFT, _STRAFE_RIGHT = (0, 0, -1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0, 0)
_FIRE = (0, 0, 0, 0, 1, 0, 0)


def _look(pixels: int, move: int = 0) -> tuple[int, ...]:
    return (pixels, 0, 0, move, 0, 0, 0)


def _tilt(pixels: int) -> tuple[int, ...]:
    return (0, pixels, 0, 0, 0, 0, 0)


ACTION_SETS: dict[str, dict[str, tuple[int, ...]]] = {
    "nine": {
        "forward": _FORWARD,
        "back": _BACK,
        "strafe left": _STRAFE_LEFT,
        "strafe right": _STRAFE_RIGHT,
        "look left": _look(-20),
        "look right": _look(20),
        "forward, left": _look(-20, 1),
        "forward, right": _look(20, 1),
        "fire": _FIRE,
    },
    "fifteen": {
        "forward": _FORWARD,
        "back": _BACK,
        "strafe left": _STRAFE_LEFT,
        "strafe right": _STRAFE_RIGHT,
        "look left": _look(-10),
        "look right": _look(10),
        "look far left": _look(-60),
        "look far right": _look(60),
        "look down": _tilt(10),
        "look up": _tilt(-10),
        "forward, left": _look(-10, 1),
        "forward, right": _look(10, 1),
        "forward, far left": _look(-60, 1),
        "forward, far right": _look(60, 1),
        "fire": _FIRE,
    },
}
"""``set -> meaning -> engine action``."""


def action_meanings(name: str) -> tuple[str, ...]:
    return tuple(ACTION_SETS[name])


def action_table(name: str) -> np.ndarray:
    """int32 ``[num_actions, 7]``; its rows are contiguous, which the engine insists on."""
    return np.array(list(ACTION_SETS[name].values()), np.intc)
