"""Every suite by name, and the one function that builds an environment from its configuration.

A suite is imported only when it is asked for, so a machine needs only the libraries of the suites it plays.
"""

from importlib import import_module

from conf.env_schema import EnvConfig
from conf.knobs import ConfigError
from conf.suites import suite_names, suite_of_others
from envs.base import UnknownEnvironment, VectorEnv, spawn_seeds
from envs.finite import FiniteEnv
from envs.suite import Part, Suite

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


def make_parts(config: EnvConfig, num_envs: int, seed: int, count: int) -> list[VectorEnv]:
    """The same streams as ``count`` environments that can be stepped one while the network looks at another: as many in each, or one more.

    Raises:
        ConfigError: if a part would have no stream.
        UnknownEnvironment, MissingDependency, EnvironmentFailure: as ``make_env``; no part is left open.
    """
    if count == 1:
        return [make_env(config, num_envs, seed)]
    if num_envs < count:
        raise ConfigError(
            f"actors.pipeline={count} needs a stream for each part, got actors.num_envs={num_envs}: raise it, or use actors.pipeline=1"
        )
    suite, parts = find_suite(config.suite), list[VectorEnv]()
    sizes = [num_envs // count + (number < num_envs % count) for number in range(count)]
    try:
        for number, (size, own_seed) in enumerate(zip(sizes, spawn_seeds(seed, count), strict=True)):
            if suite.make_part is None:
                parts.append(make_env(config, size, own_seed))
            else:
                part = Part(number, count, sum(sizes[:number]))
                parts.append(FiniteEnv(suite.make_part(config, size, seed, part)))
    except Exception:
        for part in parts:
            part.close()
        raise
    return parts
