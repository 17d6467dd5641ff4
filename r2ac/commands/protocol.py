"""How each suite is evaluated: on which environments, how many games, by which policy."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from conf.env_schema import AtariConfig, DMLab30Config, DMLabConfig, EnvConfig, ProcgenConfig
from envs.dmlab.levels import DMLAB30

PROCGEN_TESTS = (1000, 1200, 1400)
"""First levels of the paper's three test sets."""
PROCGEN_TEST_LEVELS = 200


@dataclass(frozen=True, slots=True)
class Protocol:
    splits: dict[str, EnvConfig]
    """The environments by the name of the split; the first is the one that was trained on, or nearest to it."""
    episodes: int = 30
    """Games per split, run and policy."""
    runs: int = 1
    """Repetitions, each with a seed of its own."""
    policy: str = "both"


def protocol(env: EnvConfig) -> Protocol:
    """A suite's own way of evaluation, given the environment that was trained on."""
    suites: dict[type[EnvConfig], Callable[[Any], Protocol]] = {
        AtariConfig: _atari,
        ProcgenConfig: _procgen,
        DMLabConfig: lambda config: _dmlab({config.name: config}),
        DMLab30Config: lambda config: _dmlab(
            {name: _one_level(config, name) for name in config.levels or [level.name for level in DMLAB30]}
        ),
    }
    return suites.get(type(env), lambda config: Protocol({"episodes": config}))(env)


def _atari(config: AtariConfig) -> Protocol:
    """Whole games, not lives as in the official code, but played as they were in training: the state
    begins anew with each life if it did so there."""
    return Protocol({"games": config})


def _procgen(config: ProcgenConfig) -> Protocol:
    """The levels trained on, and three sets of others."""
    splits: dict[str, EnvConfig] = {"train": config}
    if config.mode != "exploration":  # which has one level only
        for first in PROCGEN_TESTS:
            known = config.num_levels == 0 or (
                config.start_level < first + PROCGEN_TEST_LEVELS and first < config.start_level + config.num_levels
            )
            name = f"seen {first}" if known else f"test {first}"
            splits[name] = replace(config, start_level=first, num_levels=PROCGEN_TEST_LEVELS)
    return Protocol(splits, episodes=200)


def _dmlab(levels: dict[str, DMLabConfig]) -> Protocol:
    """Held-out levels and IMPALA's mixer seed; three runs of 100 episodes, greedily.

    Level after level: all thirty at once would need as many engines.
    """
    splits: dict[str, EnvConfig] = {
        name: replace(config, split="test", wait_for_reset=True) for name, config in levels.items()
    }
    return Protocol(splits, episodes=100, runs=3, policy="greedy")


def _one_level(config: DMLab30Config, name: str) -> DMLabConfig:
    shared = {field.name: getattr(config, field.name) for field in fields(DMLabConfig)}
    return DMLabConfig(**{**shared, "suite": "dmlab", "name": name})
