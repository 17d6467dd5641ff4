"""The rows of the paper's DMLab tables, and the two stages of its memory levels."""

from itertools import product
from pathlib import Path

import pytest

import conf
from conf.env_schema import DMLab30Config, DMLabConfig
from conf.load import load_train
from conf.schema import TrainConfig

EXPERIMENTS = Path(conf.__file__).parent / "experiment"
LEVELS = {
    "nonmatching": ("rooms_select_nonmatching_object", 50_000_000, 30_000_000),
    "watermaze": ("rooms_watermaze", 200_000_000, 100_000_000),
}
"""Level, steps of pre-training, steps after."""
LAST_ROW = dict.fromkeys(LEVELS, "rtrl_m100")


def check_constants(config: TrainConfig) -> None:
    assert isinstance(config.env, DMLabConfig)
    assert (config.env.actions, config.env.frame_skip, config.env.width, config.env.height) == ("nine", 4, 96, 72)
    assert (config.env.reward_clip, config.env.instruction, config.env.split) == ("abs_one", False, "train")
    assert (config.network.num_units, config.network.encoder, config.network.features) == (512, "impala", 256)
    assert (config.network.last_reward, config.network.last_action) == (True, False)
    assert (config.learner.optimizer, config.learner.learning_rate, config.learner.final_learning_rate) == (
        "rmsprop",
        6e-4,
        0.0,
    )
    assert (config.learner.rmsprop_decay, config.learner.rmsprop_epsilon, config.learner.clip_norm) == (0.99, 0.01, 40)
    assert (config.loss.entropy_cost, config.loss.baseline_cost, config.loss.discount) == (0.01, 0.5, 0.99)
    assert config.learner.batch_segments == 32
    assert (config.fleet.num_streams, config.fleet.num_actors) == (48, None)


@pytest.mark.seconds
@pytest.mark.parametrize(("level", "rule", "unroll"), list(product(LEVELS, ("tbptt", "rtrl"), (10, 50, 100))))
def test_the_memory_rows_load_and_freeze_the_stem_of_their_pretraining(level: str, rule: str, unroll: int):
    config = load_train([f"experiment=dmlab_{level}_{rule}_m{unroll}"])
    before = load_train([f"experiment=dmlab_{level}_pretrain"])
    for run in (config, before):
        check_constants(run)
        assert run.env.name == LEVELS[level][0]
    assert (before.total_steps, config.total_steps) == LEVELS[level][1:]
    assert (before.rule.name, before.network.freeze_encoder, before.network.load_encoder) == ("tbptt", False, None)
    assert config.network.load_encoder == f"runs/{before.name}", "where the first stage's run goes by default"
    assert config.network.freeze_encoder
    assert (config.rule.name, config.actors.unroll) == ("tbptt" if rule == "tbptt" else "segment", unroll)


@pytest.mark.parametrize("row", ["feedforward", "tbptt", "rtrl"])
def test_the_keys_and_doors_rows_begin_from_scratch(row: str):
    config = load_train([f"experiment=dmlab_keys_doors_{row}"])
    check_constants(config)
    assert (config.env.name, config.total_steps, config.actors.unroll) == ("rooms_keys_doors_puzzle", 100_000_000, 100)
    assert (config.network.load_encoder, config.network.freeze_encoder) == (None, False)
    assert config.network.core == ("feedforward" if row == "feedforward" else "elstm")
    assert config.rule.name == ("tbptt" if row == "tbptt" else "segment")


def test_the_thirty_level_run_has_impalas_inputs_and_a_stream_for_every_level_in_every_actor():
    config = load_train(["experiment=dmlab30_rtrl"])
    assert isinstance(config.env, DMLab30Config)
    assert (config.env.reward_clip, config.env.instruction, config.env.levels) == ("asymmetric", True, [])
    assert (config.network.last_reward, config.network.last_action) == (True, True)
    assert config.actors.streams == 30
    assert config.learner.batch_segments == 30, "an update is one contribution: a batch takes no part of one"


def check_impalas_constants(config: TrainConfig) -> None:
    assert isinstance(config.env, DMLabConfig)
    assert (config.env.actions, config.env.frame_skip, config.env.width, config.env.height) == ("nine", 4, 96, 72)
    assert (config.algorithm.name, config.algorithm.options, config.rule.name) == ("impala", {}, "tbptt")
    network = config.network
    assert (network.encoder, network.features, network.core, network.num_units) == ("impala", 256, "lstm", 256)
    assert (network.forget_bias, network.last_reward, network.last_action, config.env.instruction) == (
        1,
        True,
        True,
        True,
    )
    assert (config.actors.unroll, config.loss.discount, config.loss.baseline_cost) == (100, 0.99, 0.5)
    learner = config.learner
    assert (learner.optimizer, learner.rmsprop_decay, learner.rmsprop_epsilon) == ("rmsprop_tf", 0.99, 0.1)
    assert (learner.clip_norm, learner.final_learning_rate) == (0, 0)


@pytest.mark.parametrize("level", ["nonmatching", "watermaze", "keys_doors"])
def test_the_impala_rows_of_one_level_have_the_defaults_of_its_published_code(level: str):
    config = load_train([f"experiment=dmlab_{level}_impala"])
    check_impalas_constants(config)
    assert config.env.name == load_train([f"experiment=dmlab_{level}_{LAST_ROW.get(level, 'rtrl')}"]).env.name
    assert (config.total_steps, config.env.reward_clip, config.learner.batch_segments) == (250_000_000, "abs_one", 32)
    assert (config.loss.entropy_cost, config.learner.learning_rate) == (0.00025, 0.00048)


def test_the_impala_row_of_thirty_levels_is_the_command_of_its_readme():
    config = load_train(["experiment=dmlab30_impala"])
    check_impalas_constants(config)
    assert isinstance(config.env, DMLab30Config)
    assert (config.total_steps, config.env.reward_clip, config.actors.streams) == (2_500_000_000, "asymmetric", 30)
    assert (config.loss.entropy_cost, config.learner.learning_rate) == (0.0033391, 0.00031867)


@pytest.mark.seconds
@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("dmlab*.yaml")))
def test_a_batch_of_every_row_is_filled_by_whole_contributions(name: str):
    config = load_train([f"experiment={name}"])
    if config.algorithm.name == "r2d2":  # which has no batches
        assert config.learner.batch_segments is None
        return
    assert config.learner.batch_segments is not None
    assert config.learner.batch_segments % config.actors.streams == 0


def test_any_level_is_named_without_a_file():
    assert load_train(["env=dmlab/rooms_keys_doors_puzzle"]).env == DMLabConfig(name="rooms_keys_doors_puzzle")
    assert load_train(["env=dmlab30", "env.levels=[rooms_watermaze]"]).env == DMLab30Config(levels=["rooms_watermaze"])
