"""What a configuration may say is what there is: choices that stand in the schema, below the packages that know, are theirs."""

from dataclasses import asdict, fields, is_dataclass

import pytest

from actors.parts import core_part
from conf.env_schema import ENV_CONFIGS
from conf.schema import LearnerConfig, NetworkConfig, RuleConfig
from envs.dmlab.schedule import LEVEL_SCHEDULES
from learner.optimizer import MOMENTS
from learner.schedules import SCHEDULES
from r2ac.training.parts import part_options
from rtrl_core.cores import ACROSS_LAYERS, core_names


def choices(section: type, name: str) -> set[str]:
    return set(next(spec for spec in fields(section) if spec.name == name).metadata["choices"])


@pytest.mark.parametrize(
    ("section", "name", "registry"),
    [
        (LearnerConfig, "mode", SCHEDULES),
        (LearnerConfig, "optimizer", MOMENTS),
        (RuleConfig, "across_layers", dict.fromkeys(ACROSS_LAYERS)),
        (ENV_CONFIGS["dmlab30"], "schedule", LEVEL_SCHEDULES),
    ],
)
def test_choices_are_the_names_of_what_there_is(section: type, name: str, registry: dict):
    assert choices(section, name) == registry.keys()


@pytest.mark.parametrize("core", core_names())
def test_the_help_has_every_option_of_every_core(core: str):
    part, options = core_part(NetworkConfig(core=core))
    holder = part if is_dataclass(part) and not isinstance(part, type) else options
    names = asdict(holder) if holder is not None else {}
    lines = [line for line in part_options() if line.startswith(f"  network.core={core}: ")]
    assert len(lines) == bool(names)
    for name in names:
        assert f"network.core_options.{name}=" in lines[0]
