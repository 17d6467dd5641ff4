"""Every suite by name, and the one function that builds an environment from its configuration.

A suite is a module with ``make(config, num_envs, seed) -> VectorEnv``. It is imported only when it is asked for, so a machine
needs only the libraries of the suites it plays.
"""

import importlib

from conf.env_schema import EnvConfig
from envs.base import UnknownEnvironment, VectorEnv
from envs.finite import FiniteEnv

SUITES: dict[str, str] = {
    "atari": "envs.atari",
    "gym": "envs.gymnasium_ids",
    "procgen": "envs.procgen",
    "tmaze": "envs.tmaze",
    "delayed_match": "envs.delayed_match",
    "copy_task": "envs.copy_task",
    "minigrid": "envs.minigrid_tasks",
    "dmlab": "envs.dmlab",
    "dmlab30": "envs.dmlab",
}

DRAW_ON_DEMAND = ("gym", "minigrid")
"""Suites whose environments must be told when they are made that pictures will be asked for."""


def make_env(config: EnvConfig, num_envs: int, seed: int, *, pictures: bool = False) -> VectorEnv:
    """Builds ``num_envs`` streams of the suite that ``config`` describes. ``pictures``: whether ``render`` will be called.

    Raises:
        UnknownEnvironment: for an unknown suite, game, level or mode.
        MissingDependency: if the suite's library is not installed.
        EnvironmentFailure: if it is known, but fails to start.
    """
    if config.suite not in SUITES:
        raise UnknownEnvironment(f"unknown environment suite {config.suite!r}: expected one of {', '.join(SUITES)}")
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    make = importlib.import_module(SUITES[config.suite]).make
    options = {"pictures": pictures} if config.suite in DRAW_ON_DEMAND else {}
    return FiniteEnv(make(config, num_envs, seed, **options))
