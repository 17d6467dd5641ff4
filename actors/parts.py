"""The parts of a network by name, or of a user's own (``module:Class``), each with the options of its own dataclass."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.dotted import import_dotted, is_dotted
from conf.knobs import ConfigError
from conf.one_line import one_line
from conf.schema import NetworkConfig, RuleConfig
from conf.spelling import unknown
from rtrl_core import CELLS, ENCODERS, RECURRENT_CELLS, RULES, Core, DiagonalCell, Encoder, LearningRule, RecurrentCell
from rtrl_core.cores import CORES, FEEDFORWARD, core_names
from rtrl_core.options import NoOptions

PART_NAMES: dict[str, tuple[str, ...]] = {
    "network.core": core_names(),
    "network.encoder": tuple(ENCODERS),
    "rule.name": tuple(RULES),
}
"""Names of ours, by the option that takes one of them, or ``module:Class``."""


def core_part(network: NetworkConfig) -> "tuple[str | DiagonalCell | type[RecurrentCell] | type[Core], Any]":
    """What ``build_core`` takes, and the options of a ``RecurrentCell`` or a ``Core``, ``None`` where it has none.

    Raises:
        ConfigError: for an unknown name or option, or a class that is neither a cell nor a core.
    """
    if network.core == FEEDFORWARD:
        with_options(str, network.core_options, "network.core_options", network.core)
        return FEEDFORWARD, None
    part = find(
        "network.core", network.core, {**CELLS, **RECURRENT_CELLS, **CORES}, (DiagonalCell, RecurrentCell, Core)
    )
    options = dict(network.core_options)
    takes_options = part if issubclass(part, DiagonalCell) else part.Options
    if not is_dotted(network.core) and "forget_bias" in _option_names(takes_options):
        options.setdefault("forget_bias", network.forget_bias)
    made = with_options(takes_options, options, "network.core_options", network.core)
    if issubclass(part, DiagonalCell):
        return made, None
    return part, None if takes_options is NoOptions else made


def encoder_part(network: NetworkConfig) -> tuple[type[Encoder], Any]:
    """The class of the encoder, and its options. Raises ``ConfigError`` as ``core_part``."""
    part = find("network.encoder", network.encoder, ENCODERS, (Encoder,))
    options = dict(network.encoder_options)
    if network.encoder == "mlp":
        options.setdefault("hidden", list(network.mlp_sizes))
    return part, with_options(part.Options, options, "network.encoder_options", network.encoder)


def rule_part(rule: RuleConfig) -> LearningRule:
    """Raises ``ConfigError`` as ``core_part``."""
    part = find("rule.name", rule.name, RULES, (LearningRule,))
    return with_options(part, rule.options, "rule.options", rule.name)


def require_parts(network: NetworkConfig, rule: RuleConfig) -> None:
    """Raises ``ConfigError`` if one of them cannot be had; the one sentence that should not wait for an environment to be built."""
    core_part(network)
    encoder_part(network)
    rule_part(rule)


def require_refresh(network: NetworkConfig, rule: RuleConfig, unroll: int) -> None:
    """Raises ``ConfigError`` if ``rule.refresh`` does not fit unrolls of that many steps, or there is nothing to refresh."""
    if not rule.refresh:
        return
    if unroll == 1:
        raise ConfigError(
            f"rule.refresh={rule.refresh} needs unrolls: with actors.unroll=1 the sensitivity is read at every step anyway; "
            "raise actors.unroll to 2 or more, or leave rule.refresh=0"
        )
    if rule.refresh < unroll:
        raise ConfigError(
            f"rule.refresh={rule.refresh} is shorter than an unroll, actors.unroll={unroll}: give {unroll} or more, or 0 for none"
        )
    if network.core == FEEDFORWARD or not rule_part(rule).carries_sensitivity:
        what = f"network.core={FEEDFORWARD}" if network.core == FEEDFORWARD else f"rule {rule.name}"
        raise ConfigError(
            f"rule.refresh={rule.refresh}: {what} carries no sensitivity to refresh; leave rule.refresh=0"
        )


def find(option: str, name: str, ours: Mapping[str, type], kinds: tuple[type, ...]) -> Any:
    """A class by one of our names, or as a user typed it.

    Raises:
        ConfigError: if there is none, or it is of another kind.
    """
    if not is_dotted(name):
        if name not in ours:
            raise ConfigError(unknown(option, name, list(PART_NAMES.get(option, tuple(ours)))) + "; or MODULE:CLASS")
        return ours[name]
    found = import_dotted(option, name)
    if not isinstance(found, type) or not issubclass(found, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"{option}={name}: expected a subclass of {wanted}, got {one_line(repr(found), 80)}")
    return found


def with_options(part: type[Any], options: Mapping[str, Any], option: str, name: str) -> Any:
    """An instance of a dataclass with these options; the defaults for those that are not given.

    Args:
        option: which configuration option holds them, for the message.

    Raises:
        ConfigError: for an option that it does not have, or a value of another type.
    """
    known = _option_names(part)
    make: Callable[..., Any] = part
    for key in options:
        if key not in known:
            has = unknown("option", key, known) if known else f"unknown option {key!r}: it has none"
            raise ConfigError(f"{option} of {name}: {has}")
    if not known:
        return make() if is_dataclass(part) else None
    try:
        merged = OmegaConf.merge(OmegaConf.structured(_plain(part)), dict(options))
        given = OmegaConf.to_container(merged)
        assert isinstance(given, dict)
        values = {str(key): tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        return make(**{key: value for key, value in values.items() if key in options})
    except (OmegaConfBaseException, ValueError, TypeError, NameError) as error:
        raise ConfigError(f"{option} of {name}: {one_line(str(error).strip().splitlines()[0], 300)}") from None


def _option_names(part: type[Any]) -> list[str]:
    return [spec.name for spec in fields(part) if spec.init] if is_dataclass(part) else []


def _plain(part: type[Any]) -> type[Any]:
    """The options of a dataclass alone: OmegaConf takes the arguments of a generic base for those of a dictionary."""
    types = get_type_hints(part)
    options = [
        (
            spec.name,
            types[spec.name],
            field(default=spec.default) if spec.default is not MISSING else field(default_factory=_factory(spec)),
        )
        for spec in fields(part)
        if spec.init
    ]
    return make_dataclass(f"{part.__name__}Options", options)


def _factory(spec: Field[Any]) -> Callable[[], Any]:
    """Of the default; an option without one has to be given, which the class itself says."""
    return (lambda: None) if spec.default_factory is MISSING else spec.default_factory
