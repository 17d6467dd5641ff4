"""How DMLab is evaluated: held-out levels and IMPALA's mixer seed; three runs of 100 episodes, greedily.

Level after level: all thirty at once would need as many engines.
"""

from collections.abc import Mapping
from dataclasses import fields, replace

from conf.env_schema import DMLab30Config, DMLabConfig
from envs.dmlab.levels import DMLAB30
from envs.suite import EvaluationProtocol


def one_level(config: DMLabConfig) -> EvaluationProtocol:
    return _played({config.name: config})


def level_by_level(config: DMLab30Config) -> EvaluationProtocol:
    """Those that were trained on, or all thirty."""
    return _played({name: _alone(config, name) for name in config.levels or [level.name for level in DMLAB30]})


def _played(levels: Mapping[str, DMLabConfig]) -> EvaluationProtocol:
    splits = {name: replace(config, split="test", wait_for_reset=True) for name, config in levels.items()}
    return EvaluationProtocol(splits, episodes=100, runs=3, policy="greedy")


def _alone(config: DMLab30Config, name: str) -> DMLabConfig:
    shared = {field.name: getattr(config, field.name) for field in fields(DMLabConfig)}
    return DMLabConfig(**{**shared, "suite": "dmlab", "name": name})
