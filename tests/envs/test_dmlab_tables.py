"""DMLab-30's levels, scores, action sets and instruction words, against numbers worked out by hand."""

import subprocess
import sys

import numpy as np
import pytest

from envs.base import UnknownEnvironment
from envs.dmlab.actions import ACTION_SETS, action_meanings, action_table
from envs.dmlab.instructions import word_hashes
from envs.dmlab.levels import BY_NAME, DMLAB30, NEED_DATASET, engine_level
from envs.dmlab.scores import capped_mean_score, level_score


def test_there_are_thirty_levels_and_two_have_another_name_in_the_test():
    assert len(DMLAB30) == len({level.name for level in DMLAB30}) == 30
    assert [(level.name, level.test) for level in DMLAB30 if level.name != level.test] == [
        ("rooms_collect_good_objects_train", "rooms_collect_good_objects_test"),
        ("rooms_exploit_deferred_effects_train", "rooms_exploit_deferred_effects_test"),
    ]
    assert all(level.random < level.human for level in DMLAB30)
    assert set(BY_NAME) >= NEED_DATASET


def test_names_become_the_engines_paths_and_an_unknown_one_is_one_line():
    assert engine_level("rooms_watermaze") == "contributed/dmlab30/rooms_watermaze"
    assert engine_level("rooms_collect_good_objects_test") == "contributed/dmlab30/rooms_collect_good_objects_test"
    assert engine_level("seekavoid_arena_01") == "seekavoid_arena_01"
    assert engine_level("contributed/mine/level") == "contributed/mine/level"
    with pytest.raises(UnknownEnvironment, match="unknown DMLab level 'rooms_watermase': did you mean rooms_watermaze"):
        engine_level("rooms_watermase")


@pytest.mark.parametrize(
    ("level", "mean_return", "percent"),
    [  # the paper's Table 1, normalised
        ("rooms_watermaze", 54.8, 101.6),
        ("rooms_watermaze", 52.3, 96.6),
        ("rooms_watermaze", 15.8, 23.5),
        ("rooms_select_nonmatching_object", 62.2, 94.4),
        ("rooms_keys_doors_puzzle", 26.1, 44.2),
    ],
)
def test_the_papers_returns_have_the_papers_human_normalised_scores(level: str, mean_return: float, percent: float):
    assert level_score(level, [mean_return - 3, mean_return + 3]) == pytest.approx(percent, abs=0.06)


def human_returns() -> dict[str, list[float]]:
    return {level.name: [level.human] for level in DMLAB30}


def test_humans_score_100_and_random_play_0():
    assert capped_mean_score(human_returns()) == pytest.approx(100)
    assert capped_mean_score({level.name: [level.random] for level in DMLAB30}) == pytest.approx(0)


def test_a_level_is_averaged_before_it_is_capped_and_counts_at_most_100():
    returns = human_returns()
    # 4.065 and 103.935 average to a human's 54: capping each episode would make this level 50.
    returns["rooms_watermaze"] = [4.065, 103.935]
    assert capped_mean_score(returns) == pytest.approx(100)
    returns["rooms_watermaze"] = [4.065]
    assert capped_mean_score(returns) == pytest.approx(100 * 29 / 30)
    returns["rooms_keys_doors_puzzle"] = [1000.0]
    assert capped_mean_score(returns) == pytest.approx(100 * 29 / 30)
    # Below random play counts below zero: 2 * 4.065 - 54 is as far below random as a human is above.
    returns["rooms_watermaze"] = [2 * 4.065 - 54]
    assert capped_mean_score(returns) == pytest.approx(100 * 28 / 30)


def test_there_is_no_score_before_every_level_has_an_episode():
    returns = human_returns()
    del returns["explore_object_rewards_many"]
    assert capped_mean_score(returns) is None
    returns["explore_object_rewards_many"] = []
    assert capped_mean_score(returns) is None
    assert level_score("explore_object_rewards_many", []) is None
    assert level_score("seekavoid_arena_01", [1.0]) is None


def test_a_test_level_counts_for_its_training_level():
    returns = human_returns()
    del returns["rooms_collect_good_objects_train"]
    returns["rooms_collect_good_objects_test"] = [0.073]
    assert capped_mean_score(returns) == pytest.approx(100 * 29 / 30)


def test_the_action_sets_are_the_published_ones():
    nine, fifteen = action_table("nine"), action_table("fifteen")
    assert (nine.shape, fifteen.shape) == ((9, 7), (15, 7))
    for name, table in (("nine", nine), ("fifteen", fifteen)):
        assert table.dtype == np.intc
        assert table[3].flags.c_contiguous
        assert len({tuple(row) for row in table}) == len(table) == len(action_meanings(name))
    assert nine[4].tolist() == [-20, 0, 0, 0, 0, 0, 0]
    assert nine[7].tolist() == [20, 0, 0, 1, 0, 0, 0]
    assert nine[8].tolist() == fifteen[14].tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert sorted(abs(row[0]) for row in ACTION_SETS["fifteen"].values()) == [0] * 7 + [10] * 4 + [60] * 4


def test_words_have_the_same_hash_in_every_process():
    program = "from envs.dmlab.instructions import word_hashes; print(word_hashes('pick the blue ball').tolist())"
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert elsewhere.strip() == str(word_hashes("pick the blue ball").tolist())


def test_an_instruction_is_cut_and_padded_and_no_word_is_taken_for_none():
    hashes = word_hashes("Red red ball", length=5)
    assert hashes.dtype == np.int64
    assert hashes[0] == hashes[1] != hashes[2]
    assert (hashes > 0).tolist() == [True, True, True, False, False]
    assert word_hashes("a b c d", length=2).tolist() == word_hashes("a b", length=2).tolist()
    assert not word_hashes("").any()
