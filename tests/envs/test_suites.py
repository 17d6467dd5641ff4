"""What suites say of themselves: how they are evaluated, scored and found, and that asking imports no game."""

import subprocess
import sys

import pytest

from conf.env_schema import ENV_CONFIGS, AtariConfig, DMLab30Config, DMLabConfig, EnvConfig, ProcgenConfig, TMazeConfig
from envs.atari import games
from envs.dmlab.levels import DMLAB30
from envs.human_scores import ATARI
from envs.registry import SUITES, find_suite
from envs.suite import EvaluationProtocol


def protocol_of(config: EnvConfig) -> EvaluationProtocol:
    return find_suite(config.suite).protocol(config)


def test_the_registry_and_the_options_know_the_same_suites():
    assert list(SUITES) == list(ENV_CONFIGS)
    for name, config in ENV_CONFIGS.items():
        assert find_suite(name).config is config
        assert config().suite == name


def test_asking_for_every_protocol_imports_no_game():
    program = (
        "import sys\n"
        "from conf.env_schema import ENV_CONFIGS\n"
        "from envs.registry import find_suite\n"
        "for name, config in ENV_CONFIGS.items():\n"
        "    find_suite(name).protocol(config())\n"
        "print(*{'ale_py', 'procgen', 'minigrid', 'deepmind_lab', 'torch', 'ray'} & set(sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "\n"


def test_the_atari_57_are_games_that_can_be_played():
    assert len(ATARI) == 57
    assert set(ATARI) <= set(games())
    assert all(random < human for random, human in ATARI.values())


def test_atari_is_played_as_it_was_trained_and_other_suites_too():
    plan = protocol_of(AtariConfig(name="qbert", opening="ale"))
    assert plan.splits == {"games": AtariConfig(name="qbert", opening="ale")}
    assert protocol_of(TMazeConfig()).splits == {"episodes": TMazeConfig()}
    assert (plan.episodes, plan.runs, plan.policy) == (30, 1, "both")


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (ProcgenConfig(), ["train", "test 1000", "test 1200", "test 1400"]),
        (ProcgenConfig(num_levels=0), ["train", "seen 1000", "seen 1200", "seen 1400"]),
        (ProcgenConfig(num_levels=1201), ["train", "seen 1000", "seen 1200", "test 1400"]),
        (ProcgenConfig(start_level=1399), ["train", "test 1000", "seen 1200", "seen 1400"]),
        (ProcgenConfig(name="coinrun", mode="exploration"), ["train"]),
    ],
)
def test_procgen_levels_that_were_trained_on_are_not_called_a_test(config: ProcgenConfig, names: list[str]):
    plan = protocol_of(config)
    assert list(plan.splits) == names
    assert plan.episodes == 200


def test_dmlab_is_played_on_held_out_levels_three_times_greedily():
    plan = protocol_of(DMLabConfig(name="rooms_watermaze", actions="fifteen"))
    assert (plan.episodes, plan.runs, plan.policy) == (100, 3, "greedy")
    (config,) = plan.splits.values()
    assert config == DMLabConfig(name="rooms_watermaze", actions="fifteen", split="test", wait_for_reset=True)


def test_dmlab_30_is_played_level_by_level_with_the_options_it_was_trained_with():
    plan = protocol_of(DMLab30Config(width=64, level_cache="levels"))
    assert list(plan.splits) == [level.name for level in DMLAB30]
    config = plan.splits["rooms_watermaze"]
    assert type(config) is DMLabConfig
    assert (config.suite, config.split, config.width, config.level_cache) == ("dmlab", "test", 64, "levels")
    assert (config.instruction, config.reward_clip) == (True, "asymmetric")
    assert list(protocol_of(DMLab30Config(levels=["rooms_watermaze"])).splits) == ["rooms_watermaze"]
