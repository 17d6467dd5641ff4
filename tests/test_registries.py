"""What a configuration may say is what there is: choices that stand in the schema, below the packages that know, are theirs."""

from dataclasses import fields

import pytest

from conf.env_schema import ENV_CONFIGS
from conf.schema import LearnerConfig
from envs.dmlab.schedule import LEVEL_SCHEDULES
from learner.optimizer import MOMENTS
from learner.schedules import SCHEDULES


def choices(section: type, name: str) -> set[str]:
    return set(next(spec for spec in fields(section) if spec.name == name).metadata["choices"])


@pytest.mark.parametrize(
    ("section", "name", "registry"),
    [
        (LearnerConfig, "mode", SCHEDULES),
        (LearnerConfig, "optimizer", MOMENTS),
        (ENV_CONFIGS["dmlab30"], "schedule", LEVEL_SCHEDULES),
    ],
)
def test_choices_are_the_names_of_what_there_is(section: type, name: str, registry: dict):
    assert choices(section, name) == registry.keys()
