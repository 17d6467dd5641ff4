"""Random and human returns by which scores are normalised.

Atari: the constants of the DQN line of work, as listed in PAPER.md 4.3 for the paper's five games (dqn_zoo's table).
"""

ATARI: dict[str, tuple[float, float]] = {
    "breakout": (1.7, 30.5),
    "gravitar": (173.0, 3351.4),
    "ms_pacman": (307.3, 6951.6),
    "qbert": (163.9, 13455.0),
    "seaquest": (68.4, 42054.7),
}
"""``game -> (random, human)``."""


def human_normalised(value: float, random_and_human: tuple[float, float]) -> float:
    """In percent: 0 is random play, 100 a human."""
    random, human = random_and_human
    return 100.0 * (value - random) / (human - random)
