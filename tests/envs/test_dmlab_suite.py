"""From options to engines: protocols, and what is said where something cannot be played."""

import importlib.util
from collections.abc import Callable

import pytest

from conf.env_schema import DMLab30Config, DMLabConfig
from conf.knobs import ConfigError
from envs.base import MissingDependency, UnknownEnvironment
from envs.dmlab.suite import TEST_MIXER_SEED, engine_options, level_names
from envs.registry import make_env


def test_test_levels_get_impalas_protocol(standin: Callable[..., None]):
    config = DMLab30Config(split="test", levels=["rooms_collect_good_objects_train", "rooms_watermaze"])
    names = level_names(config)
    assert names == ["rooms_collect_good_objects_test", "rooms_watermaze"]
    for options in engine_options(config, names):
        assert options.settings["allowHoldOutLevels"] == "true"
        assert options.settings["mixerSeed"] == str(TEST_MIXER_SEED) == "1611489005"
    assert "mixerSeed" not in engine_options(DMLabConfig(), ["rooms_watermaze"])[0].settings
    assert len(level_names(DMLab30Config())) == 30


@pytest.mark.parametrize(
    ("config", "kind", "sentence"),
    [
        (
            DMLabConfig(name="rooms_watermase"),
            UnknownEnvironment,
            "unknown DMLab level 'rooms_watermase': did you mean",
        ),
        (DMLabConfig(name="rooms_collect_good_objects_test"), ConfigError, "held out of training: set env.split=test"),
        (DMLab30Config(levels=["rooms_watermaze"] * 2), ConfigError, "each level once"),
        (DMLabConfig(name="psychlab_continuous_recognition"), MissingDependency, "set env.dataset_path"),
        (DMLab30Config(dataset_path="/nowhere"), MissingDependency, "arbitrary_visuomotor_mapping and psychlab_cont"),
        (DMLabConfig(width=95), ConfigError, "env.width must be a multiple of 4, got 95"),
        (DMLabConfig(num_levels=5, start_level=2**31), UnknownEnvironment, "level seeds below 2147483647"),
        (DMLabConfig(start_level=5), ConfigError, "env.start_level needs env.num_levels"),
        (DMLabConfig(level_cache_remote="s3://b/levels"), ConfigError, "set env.level_cache"),
        (DMLabConfig(level_cache="/proc/levels"), ConfigError, "env.level_cache: cannot make the folder /proc/levels"),
    ],
)
def test_what_cannot_be_played_is_one_line(
    standin: Callable[..., None], config: DMLabConfig, kind: type[Exception], sentence: str
):
    with pytest.raises(kind) as caught:
        make_env(config, 1, 1)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("deepmind_lab") is not None, reason="the module is here")
def test_without_the_module_one_sentence_says_where_to_get_it():
    with pytest.raises(MissingDependency) as caught:
        make_env(DMLabConfig(), 1, 1)
    assert str(caught.value).startswith("env=dmlab needs the deepmind_lab module")
    assert "python/pip_package" in str(caught.value)
