"""A stored configuration is data, whoever wrote it: nothing is interpolated or imported, and it sends nobody to a path or an address.

    stored = read_stored(text, ["env.level_cache=/fast/levels"])     with the places that the caller says again
    stored.config                                                    the others are at their defaults
    stored.ignored                                                   one line about them, or empty

An environment suite of somebody's own, ``module:NAME``, is imported only if the caller says ``env=module:NAME`` again. One that an
installed package registers is imported: whoever installed it here has trusted it.

Which options are places is said where they are declared: ``knob(..., place=...)``.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass, make_dataclass
from keyword import iskeyword
from operator import attrgetter
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.data_yaml import read_yaml
from conf.dotted import is_dotted
from conf.env_schema import BEFORE, ENV_CONFIGS, EnvConfig
from conf.knobs import PLACE, ConfigError, validate
from conf.load import load_train
from conf.one_line import one_line
from conf.places import shown
from conf.schema import TrainConfig
from conf.suites import env_config_class, registered_suites

_USED = re.compile(r"env\..*|network\.(core|encoder)(_options)?|rule\.(name|options)")
"""What those who read a stored configuration make use of: the places and modules among these may be said again."""
_UNSAID: dict[str, Any] = {"rule.name": "tbptt", "rule.options": {}, "algorithm.name": "r2ac", "algorithm.options": {}}
"""What takes the place of a part of somebody's own that was not said again, where whoever reads a configuration does without: acting
is the same under every learning rule, and nobody trains from a file."""
_INTERPOLATION = re.compile(r"(\\*)\$\{")


@dataclass(frozen=True, slots=True)
class Stored:
    """A configuration that was read, and what was left out of it."""

    config: TrainConfig
    ignored: str
    """For a person; empty if nothing was."""


def read_stored(text: str, words: Sequence[str] = ()) -> Stored:
    """The inverse of ``conf.load.to_yaml``, but for places.

    Args:
        words: what the caller says again: ``env.OPTION=VALUE`` for places, ``env=SUITE/NAME``, ``network.core=MODULE:CLASS``,
            ``network.encoder=MODULE:CLASS`` and ``rule=MODULE:CLASS`` for parts of somebody's own.

    Raises:
        ConfigError: for options or values that this version does not have, or a task that would import a module or leave its folder.
    """
    config = read_verbatim(text)
    words = [f"rule.name={word.removeprefix('rule=')}" if word.startswith("rule=") else word for word in words]
    words = _with_known_env(config, words)
    known = {option: (owner, spec) for option, owner, spec in places(config)}
    repeated = {_place_of(word, known) for word in words}
    env = config.env.suite if config.env.suite in ENV_CONFIGS else f"{config.env.suite}/{config.env.name}"
    said = load_train([f"env={env}", *words]) if words else config
    ignored = []
    for option, (owner, spec) in known.items():
        value, place = getattr(owner, spec.name), spec.metadata[PLACE]
        ours = attrgetter(option)(said)
        if option in repeated:
            if place is not True and ours != value:
                raise ConfigError(f"{option}={ours} is not what is stored: {one_line(str(shown(value)))}")
            setattr(owner, spec.name, ours)
        elif place is True and value != _default(spec):
            if _USED.fullmatch(option):  # where a run was written and reported to concerns nobody who reads it
                ignored.append(f"{option}={shown(value)}")
            setattr(owner, spec.name, _default(spec))
        elif place is not True and place(value) and option in _UNSAID:
            if _USED.fullmatch(option):
                ignored.append(f"{option}={shown(value)}")
            setattr(owner, spec.name, copy(_UNSAID[option]))
        elif place is not True and place(value):
            raise ConfigError(
                f"the stored configuration has {one_line(f'{option}={shown(value)}')}, which can import a module or read a file: "
                f"repeat {option}=... if you trust it"
            )
    line = f"ignored, as it was not said again: {one_line(', '.join(ignored))}" if ignored else ""
    return Stored(config, line)


def from_yaml(text: str) -> TrainConfig:
    """``read_stored`` for whoever repeats nothing."""
    return read_stored(text).config


def read_verbatim(text: str) -> TrainConfig:
    """Everything as it is stored: to be compared or shown, never to be followed.

    Raises:
        ConfigError: see ``read_stored``.
    """
    values = read_yaml(text, "the configuration")
    env = values.get("env") if isinstance(values, dict) else None
    if not isinstance(env, dict) or not isinstance(env.get("suite"), str):
        raise ConfigError("not a training configuration: env.suite is missing")
    suite = env["suite"]
    if suite in ENV_CONFIGS:
        return _typed(values, ENV_CONFIGS[suite](**BEFORE.get(suite, {})))
    if is_dotted(suite) or suite in registered_suites():
        return _typed(values, _options_as_they_are(env))
    raise ConfigError(f"not a training configuration: env.suite is {one_line(suite)!r}")


def _typed(values: Any, env: EnvConfig) -> TrainConfig:
    """``values`` as a configuration with options like those of ``env``, whose own values are the defaults."""
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig(env=env)), literal(values)))
    except (OmegaConfBaseException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"not a training configuration: {_first_sentence(error)}") from None
    assert isinstance(config, TrainConfig)
    validate(config)
    return config


def _options_as_they_are(env: dict[str, Any]) -> EnvConfig:
    """What can hold the options of a suite that must not be imported: any value under any name that a dataclass's field may have."""
    ours = {spec.name for spec in fields(EnvConfig)}
    names = [_literal_key(key) for key in env if key not in ours]
    for name in names:
        if not name.isidentifier() or iskeyword(name) or name.startswith("_"):
            raise ConfigError(f"not a training configuration: {one_line(name, 80)!r} is not the name of an option")
    return make_dataclass("StoredEnvConfig", [(name, Any, field(default=None)) for name in names], bases=(EnvConfig,))()


def _with_known_env(config: TrainConfig, words: Sequence[str]) -> list[str]:
    """Gives the options of a suite that is not ours their types, and returns the words that are left to be looked at.

    Raises:
        ConfigError: if the suite would be imported and was not said again, or another one was.
    """
    suite, others = config.env.suite, [word for word in words if word.partition("=")[0] != "env"]
    said = [word.partition("=")[2] for word in words if word.partition("=")[0] == "env"]
    if suite in ENV_CONFIGS:
        return list(words)
    if is_dotted(suite) and not said:
        raise ConfigError(
            f"the stored configuration is of an environment suite of somebody's own, env={one_line(suite)}, which is a module to "
            f"import: repeat env={one_line(suite)} if you trust it"
        )
    for word in said:
        if word not in (suite, f"{suite}/{config.env.name}"):
            raise ConfigError(f"env={word} is not what is stored: {one_line(f'{suite}/{config.env.name}')}")
    known = env_config_class(suite)
    assert known is not None, suite
    config.env = _typed({"env": asdict(config.env)}, known(suite=suite)).env
    named = [spec for spec in fields(known) if spec.name == "name" and spec.metadata.get(PLACE)]
    return [*others, *(f"env.name={config.env.name}" for word in said if "/" in word and named)]


def places(config: Any, path: str = "") -> Iterator[tuple[str, Any, Field[Any]]]:
    """Every option that is a place, with the section that holds it."""
    for spec in fields(config):
        value = getattr(config, spec.name)
        if is_dataclass(value):
            yield from places(value, f"{path}{spec.name}.")
        elif spec.metadata.get(PLACE):
            yield f"{path}{spec.name}", config, spec


def literal(values: Any) -> Any:
    """Values for OmegaConf with what it would interpolate escaped."""
    if isinstance(values, dict):
        return {_literal_key(key): literal(value) for key, value in values.items()}
    if isinstance(values, list):
        return [literal(value) for value in values]
    return _INTERPOLATION.sub(r"\1\1\\${", values) if isinstance(values, str) else values


def _literal_key(key: Any) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"not a training configuration: {key!r} is not the name of an option")
    return key


def _place_of(word: str, known: Iterable[str]) -> str:
    """The option that a word is about."""
    key = word.partition("=")[0]
    ours = [option for option in known if _USED.fullmatch(option)]
    found = next((option for option in ours if key == option or key.startswith(f"{option}.")), None)
    if found is None:
        raise ConfigError(
            f"{key} is as it is stored: " + (f"only {', '.join(ours)} can be said again" if ours else "leave it out")
        )
    return found


def _default(spec: Field[Any]) -> Any:
    return spec.default_factory() if callable(spec.default_factory) else spec.default


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0], 300) if lines else type(error).__name__
