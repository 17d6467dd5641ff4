"""The 30 levels of DMLab-30: names for training and test, and the returns of random play and of humans.

Scores are Table B.1 of the IMPALA paper (Espeholt et al. 2018) with the digits of its released code (google-deepmind/scalable_agent,
``dmlab30.py``). The two disagree about which lasertag scores belong to the small and which to the large maps; the code's
assignment is used here, because published capped scores were computed with it.
"""

import difflib
from typing import NamedTuple

from envs.base import UnknownEnvironment

FOLDER = "contributed/dmlab30/"
"""Of the levels inside the engine."""


class Level(NamedTuple):
    name: str
    """What is trained on."""
    test: str
    """What is tested on; another name only for the two levels that hold content back."""
    random: float
    """Mean return of random play."""
    human: float
    """Mean return of a human."""


def _same(name: str, random: float, human: float) -> Level:
    return Level(name, name, random, human)


def _split(name: str, random: float, human: float) -> Level:
    return Level(f"{name}_train", f"{name}_test", random, human)


DMLAB30: tuple[Level, ...] = (
    _split("rooms_collect_good_objects", 0.073, 10.0),
    _split("rooms_exploit_deferred_effects", 8.501, 85.65),
    _same("rooms_select_nonmatching_object", 0.312, 65.9),
    _same("rooms_watermaze", 4.065, 54.0),
    _same("rooms_keys_doors_puzzle", 4.135, 53.8),
    _same("language_select_described_object", -0.07, 389.5),
    _same("language_select_located_object", 1.929, 280.7),
    _same("language_execute_random_task", -5.913, 254.05),
    _same("language_answer_quantitative_question", -0.33, 184.5),
    _same("lasertag_one_opponent_small", -0.224, 12.65),
    _same("lasertag_three_opponents_small", -0.214, 18.55),
    _same("lasertag_one_opponent_large", -0.083, 18.6),
    _same("lasertag_three_opponents_large", -0.102, 31.5),
    _same("natlab_fixed_large_map", 2.173, 36.9),
    _same("natlab_varying_map_regrowth", 2.989, 24.45),
    _same("natlab_varying_map_randomized", 7.346, 42.35),
    _same("skymaze_irreversible_path_hard", 0.1, 100.0),
    _same("skymaze_irreversible_path_varied", 14.4, 100.0),
    _same("psychlab_arbitrary_visuomotor_mapping", 0.163, 58.75),
    _same("psychlab_continuous_recognition", 0.224, 58.3),
    _same("psychlab_sequential_comparison", 0.129, 39.5),
    _same("psychlab_visual_search", 0.085, 78.5),
    _same("explore_object_locations_small", 3.575, 74.45),
    _same("explore_object_locations_large", 4.673, 65.65),
    _same("explore_obstructed_goals_small", 6.76, 206.0),
    _same("explore_obstructed_goals_large", 2.61, 119.5),
    _same("explore_goal_locations_small", 7.66, 267.5),
    _same("explore_goal_locations_large", 3.14, 194.5),
    _same("explore_object_rewards_few", 2.073, 77.7),
    _same("explore_object_rewards_many", 2.438, 106.7),
)

CORE: tuple[str, ...] = (
    *("lt_chasm", "lt_hallway_slope", "lt_horseshoe_color", "lt_space_bounce_hard"),
    *("nav_maze_random_goal_01", "nav_maze_random_goal_02", "nav_maze_random_goal_03"),
    *("nav_maze_static_01", "nav_maze_static_02", "nav_maze_static_03"),
    *("seekavoid_arena_01", "stairway_to_melon"),
)
"""The engine's other levels."""

NEED_DATASET = frozenset({"psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition"})
"""Levels that show pictures which do not come with the engine (``datasetPath``)."""

BUILD_MAPS: tuple[str, ...] = tuple(
    level.name for level in DMLAB30 if level.name.startswith(("rooms_keys_doors", "lasertag", "skymaze", "explore"))
)
"""Levels that build a map for every episode, which takes seconds: those that a level cache is good for."""

BY_NAME: dict[str, Level] = {name: level for level in DMLAB30 for name in (level.name, level.test)}


def engine_level(name: str) -> str:
    """What the engine calls a level: DMLab-30 names live in a folder; a path is taken as it is.

    Raises:
        UnknownEnvironment: for a name that is neither.
    """
    if name in BY_NAME:
        return FOLDER + name
    if name in CORE or "/" in name:
        return name
    known = [*BY_NAME, *CORE]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"for instance {', '.join(known[:5])}"
    raise UnknownEnvironment(f"unknown DMLab level {name!r}: {hint}")
