"""The DMLab-30 score: human-normalised returns, capped per level, averaged over all thirty levels."""

from collections.abc import Mapping, Sequence

from envs.dmlab.levels import BY_NAME, DMLAB30
from envs.human_scores import human_normalised

CAP = 100.0
"""Percent: a level played better than a human does not make up for one played worse."""


def level_score(name: str, returns: Sequence[float]) -> float | None:
    """Percent, uncapped, of the *mean* return; ``None`` without episodes or for a level outside DMLab-30."""
    level = BY_NAME.get(name)
    if level is None or not returns:
        return None
    return human_normalised(sum(returns) / len(returns), (level.random, level.human))


def capped_mean_score(returns: Mapping[str, Sequence[float]]) -> float | None:
    """The mean over DMLab-30 of ``min(100, score)``, from the raw returns by level, under their training or their test names.

    ``None`` until each of the thirty levels has an episode: a mean over fewer would be of another, mostly easier suite.
    """
    scores: list[float] = []
    for level in DMLAB30:
        episodes = [*returns.get(level.name, ()), *(returns.get(level.test, ()) if level.test != level.name else ())]
        score = level_score(level.name, episodes)
        if score is None:
            return None
        scores.append(min(CAP, score))
    return sum(scores) / len(scores)
