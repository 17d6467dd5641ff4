"""A stored configuration is data, whoever wrote it: nothing is interpolated or imported, and it sends nobody to a path or an address.

    stored = read_stored(text, ["env.level_cache=/fast/levels"])     with the places that the caller says again
    stored.config                                                    the others are at their defaults
    stored.ignored                                                   one line about them, or empty

Which options are places is said where they are declared: ``knob(..., place=...)``.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.data_yaml import read_yaml
from conf.env_schema import BEFORE, ENV_CONFIGS
from conf.knobs import PLACE, ConfigError, validate
from conf.load import load_train
from conf.one_line import one_line
from conf.places import shown
from conf.schema import TrainConfig

_USED = "env."
"""What those who read a stored configuration make use of: the environment has places that may be said again."""
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
        words: ``env.OPTION=VALUE``, the places that the caller says again.

    Raises:
        ConfigError: for options or values that this version does not have, or a task that would import a module or leave its folder.
    """
    config = read_verbatim(text)
    known = {option: (owner, spec) for option, owner, spec in places(config)}
    repeated = {_place_of(word, known) for word in words}
    said = load_train([f"env={config.env.suite}", *words]) if words else config
    ignored = []
    for option, (owner, spec) in known.items():
        value, place = getattr(owner, spec.name), spec.metadata[PLACE]
        ours = attrgetter(option)(said)
        if option in repeated:
            if place is not True and ours != value:
                raise ConfigError(f"{option}={ours} is not what is stored: {one_line(str(shown(value)))}")
            setattr(owner, spec.name, ours)
        elif place is True and value != _default(spec):
            if option.startswith(
                _USED
            ):  # where a run was written and where it reported to concerns nobody who reads it
                ignored.append(f"{option}={shown(value)}")
            setattr(owner, spec.name, _default(spec))
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
    if suite not in ENV_CONFIGS:
        raise ConfigError(f"not a training configuration: env.suite is {one_line(suite)!r}")
    try:
        schema = OmegaConf.structured(TrainConfig(env=ENV_CONFIGS[suite](**BEFORE.get(suite, {}))))
        config = OmegaConf.to_object(OmegaConf.merge(schema, literal(values)))
    except (OmegaConfBaseException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"not a training configuration: {_first_sentence(error)}") from None
    assert isinstance(config, TrainConfig)
    validate(config)
    return config


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


def _literal_key(key: Any) -> Any:
    if not isinstance(key, str):
        raise ConfigError(f"not a training configuration: {key!r} is not the name of an option")
    return key


def _place_of(word: str, known: Iterable[str]) -> str:
    """The option that a word is about."""
    key = word.partition("=")[0]
    ours = [option for option in known if option.startswith(_USED)]
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
