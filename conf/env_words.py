"""``env=SUITE/NAME`` and ``env.OPTION=VALUE`` as words for Hydra, for suites of ours and of others."""

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from conf.env_schema import ENV_CONFIGS, EnvConfig
from conf.folder import Folder
from conf.knobs import ConfigError
from conf.options import free_text, walk
from conf.schema import TrainConfig
from conf.spelling import unknown
from conf.suites import default_name, env_config_class, suite_names
from conf.words import quoted


def env_of(words: Sequence[str], folder: Folder | None = None) -> type[EnvConfig] | None:
    """The options of the suite that ``env=SUITE/NAME`` names; ``None`` if no word does, or there is no such suite.

    Raises:
        ConfigError: if a suite of somebody's own cannot be imported.
    """
    suite = suite_of(words)
    if not suite or (folder is not None and suite in folder.files("env")):
        return None
    return env_config_class(suite)


def suite_of(words: Sequence[str]) -> str:
    """The suite that the last ``env=`` names; empty if none does."""
    values = [word.removeprefix("env=") for word in words if word.startswith("env=")]
    return values[-1].partition("/")[0] if values else ""


def translate_env(value: str, config: type[EnvConfig] | None) -> list[str]:
    """Of ``env=VALUE``; ``config`` has the options of its suite.

    Raises:
        ConfigError: if there is no such suite.
    """
    suite, slash, name = value.partition("/")
    if config is None:
        raise ConfigError(unknown("environment suite", suite, suite_names()) + "; write env=SUITE/NAME")
    if suite not in ENV_CONFIGS:
        node = OmegaConf.structured(config)
        node.suite = suite
        ConfigStore.instance().store(group="env", name=suite, node=node)
    return [f"env={suite}", f"env.name={quoted(name if slash else default_name(suite, config))}"]


def texts_of(env: type[EnvConfig] | None, option: str) -> frozenset[str]:
    """Options of the environment whose values are taken as they are. ``option`` is the one that is asked for.

    Raises:
        ConfigError: if a suite of somebody else does not have it. Of ours, the schema says so.
    """
    if env is None or env in ENV_CONFIGS.values():
        return free_text(TrainConfig)
    known = [name for name, _ in walk(env, "env.")]
    if option not in known:
        raise ConfigError(unknown("option", option, known))
    return free_text(env, "env.")
