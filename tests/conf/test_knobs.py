"""Every number has limits on both sides, and a value outside of them is one line."""

from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

import pytest

from conf.env_schema import ENV_CONFIGS
from conf.knobs import LENGTH, MAXIMUM, MINIMUM, ConfigError, validate
from conf.load import load_train
from conf.schema import EvaluateConfig, TrainConfig
from conf.submit_schema import TARGET_CONFIGS, SubmitConfig
from r2ac.commands.copy_task import CopyConfig
from r2ac.commands.demo import DemoConfig
from r2ac.commands.dmlab_cache import DMLabCacheConfig
from r2ac.commands.play import PlayConfig

SCHEMAS = (
    *(TrainConfig, *ENV_CONFIGS.values(), EvaluateConfig, SubmitConfig, *TARGET_CONFIGS.values()),
    *(CopyConfig, DemoConfig, DMLabCacheConfig, PlayConfig),
)
NUMBERS = (int, float, int | None, float | None, list[int], list[float])


def knobs(schema: type, path: str = "") -> Iterator[tuple[str, Field[Any]]]:
    for spec in fields(schema):
        if is_dataclass(spec.type) and isinstance(spec.type, type):
            yield from knobs(spec.type, f"{path}{spec.name}.")
        else:
            yield f"{path}{spec.name}", spec


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_number_and_every_list_has_limits_and_a_default_within_them(schema: type):
    for option, spec in knobs(schema):
        if spec.type in NUMBERS:
            assert spec.metadata.get(MINIMUM) is not None, option
            assert spec.metadata.get(MAXIMUM) is not None, option
            assert spec.metadata[MINIMUM] < spec.metadata[MAXIMUM], option
        assert not str(spec.type).startswith("list") or spec.metadata.get(LENGTH), option
    for spec in fields(schema):
        if spec.default == "???":
            return  # cannot be made without it
    validate(schema())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("loss.discount=2", "loss.discount must be at most 1, got 2"),
        ("loss.trace_decay=1.1", "loss.trace_decay must be at most 1, got 1.1"),
        ("learner.adam_betas=[0.9]", "learner.adam_betas must have 2 elements, got 1"),
        ("learner.adam_betas=[0.9,1]", "learner.adam_betas must be at most 0.999999999, got 1.0"),
        ("learner.adam_betas=[]", "learner.adam_betas must have 2 elements, got 0"),
        ("learner.rmsprop_decay=-0.1", "learner.rmsprop_decay must be at least 0"),
        ("network.mlp_sizes=[-3]", "network.mlp_sizes must be at least 1, got -3"),
        ("network.mlp_sizes=[[64]]", "network.mlp_sizes must hold single values, got [64]"),
        ("network.mlp_sizes=[64,0]", "network.mlp_sizes must be at least 1, got 0"),
        ("network.num_units=100000000", "network.num_units must be at most 65536"),
        ("seed=9223372036854775808", "seed must be at most 9223372036854775807"),
        ("fleet.metrics_port=65536", "fleet.metrics_port must be at most 65535"),
        ("env.sticky_actions=1.5", "env.sticky_actions must be at most 1"),
        ("actors.num_envs=1000000000000000000000", "actors.num_envs must be at most 65536"),
        ("logging.interval_s=1e300", "logging.interval_s must be at most"),
        ("logging.interval_s=inf", "logging.interval_s must be a finite number, got inf"),
        ("name=a\nb", "name must be one line without control characters"),
        ("run_dir=/tmp/\x1b[31mx", "run_dir must be one line without control characters"),
        ("env.name=" + "x" * 5000, "env.name must have at most 4096 characters, got 5000"),
    ],
)
def test_a_value_outside_of_its_limits_is_one_line(word: str, message: str):
    with pytest.raises(ConfigError) as failure:
        load_train([word])
    assert message in str(failure.value)
    assert str(failure.value).isprintable()


def test_the_largest_seed_is_one_for_every_generator():
    import numpy as np
    import torch

    from envs.base import spawn_seeds

    config = load_train([f"seed={2**63 - 1}"])
    torch.manual_seed(config.seed)
    np.random.default_rng(config.seed)
    assert len(set(spawn_seeds(config.seed, 4))) == 4
