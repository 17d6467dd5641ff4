"""Which options an environment suite has: one of ours, one that an installed package registers, or ``module:NAME`` of a user's own.

Ours are in ``conf/env_schema.py``. Of the others, the ``Suite`` object says them in its ``config``; see ``envs/suite.py``.
"""

from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.dotted import import_dotted, is_dotted
from conf.env_schema import ENV_CONFIGS, EnvConfig
from conf.knobs import ConfigError
from conf.one_line import one_line

GROUP = "r2ac.suites"
"""Of the entry points by which a package registers suites: short name -> ``module:NAME`` of the ``Suite``."""


def env_config_class(suite: str) -> type[EnvConfig] | None:
    """The options of a suite; ``None`` for an unknown one. Imports what is not ours: see ``conf/stored.py`` for when it may.

    Raises:
        ConfigError: if it cannot be imported, or is no suite.
    """
    if suite in ENV_CONFIGS:
        return ENV_CONFIGS[suite]
    found = suite_of_others(suite)
    return None if found is None else _checked(suite, getattr(found, "config", None))


def suite_of_others(name: str) -> Any:
    """The object of a suite that is not ours; ``None`` for an unknown one.

    Raises:
        ConfigError: if it cannot be imported.
    """
    if is_dotted(name):
        return import_dotted("env", name)
    entry = registered_suites().get(name)
    if entry is None:
        return None
    try:
        return entry.load()
    except Exception as error:  # whatever somebody else's package raises
        raise ConfigError(
            f"env={name}: {entry.value}, which an installed package registers, cannot be imported: "
            f"{type(error).__name__}: {one_line(error, 300)}"
        ) from error


def registered_suites() -> dict[str, EntryPoint]:
    """By short name, what installed packages register. Nobody takes over a name of ours. Imports nothing."""
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in ENV_CONFIGS}


def suite_names() -> list[str]:
    """Every name that can be said without a module."""
    return [*ENV_CONFIGS, *sorted(registered_suites())]


def default_name(suite: str, config: type[EnvConfig]) -> str:
    """What is played when ``env=SUITE`` says no name.

    Raises:
        ConfigError: if the suite has no default.
    """
    name = next(spec.default for spec in fields(config) if spec.name == "name")
    if name == MISSING:
        raise ConfigError(f"env={suite} has no default name: write env={suite}/NAME")
    return str(name)


def _checked(suite: str, config: Any) -> type[EnvConfig]:
    if not (isinstance(config, type) and issubclass(config, EnvConfig) and "__dataclass_fields__" in vars(config)):
        raise ConfigError(
            f"env={suite} is no suite: expected an envs.suite.Suite whose config is a dataclass derived from conf.env_schema.EnvConfig"
        )
    try:
        OmegaConf.structured(config)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"env={suite}: its options cannot be used: {one_line(error, 300)}") from None
    return config
