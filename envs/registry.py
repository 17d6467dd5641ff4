"""Every suite by name, and the one function that builds an environment from its configuration.

A suite is imported only when it is asked for, so a machine needs only the libraries of the suites it plays.
"""

from importlib import import_module

from conf.env_schema import EnvConfig
from conf.suites import suite_names, suite_of_others
from envs.base import UnknownEnvironment, VectorEnv
from envs.finite import FiniteEnv
from envs.suite import Suite

SUITES: dict[str, str] = {
    "atari": "envs.atari:SUITE",
    "gym": "envs.gymnasium_ids:SUITE",
    "procgen": "envs.procgen:SUITE",
    "tmaze": "envs.tmaze:SUITE",
    "delayed_match": "envs.delayed_match:SUITE",
    "copy_task": "envs.copy_task:SUITE",
    "minigrid": "envs.minigrid_tasks:SUITE",
    "dmlab": "envs.dmlab.suite:ONE_LEVEL",
    "dmlab30": "envs.dmlab.suite:DMLAB_30",
}
"""Where the ``Suite`` of each name is. A suite of somebody else needs no line here: see ``conf/suites.py``."""


def find_suite(name: str) -> Suite:
    """One of ours, one that an installed package registers, or ``module:NAME`` of a user's own.

    Raises:
        UnknownEnvironment: if there is none.
        ConfigError: if somebody's own cannot be imported.
    """
    if name in SUITES:
        module, _, attribute = SUITES[name].partition(":")
        return getattr(import_module(module), attribute)
    found = suite_of_others(name)
    if found is None:
        raise UnknownEnvironment(f"unknown environment suite {name!r}: expected one of {', '.join(suite_names())}")
    if not isinstance(found, Suite):
        raise UnknownEnvironment(f"env={name} is no envs.suite.Suite, but of type {type(found).__name__}")
    return found


def make_env(config: EnvConfig, num_envs: int, seed: int, *, pictures: bool = False) -> VectorEnv:
    """Builds ``num_envs`` streams of the suite that ``config`` describes. ``pictures``: whether ``render`` will be called.

    Raises:
        UnknownEnvironment: for an unknown suite, game, level or mode.
        MissingDependency: if the suite's library is not installed.
        EnvironmentFailure: if it is known, but fails to start.
    """
    suite = find_suite(config.suite)
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    options = {"pictures": pictures} if suite.takes_pictures else {}
    return FiniteEnv(suite.make(config, num_envs, seed, **options))
