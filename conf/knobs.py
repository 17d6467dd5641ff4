"""How a knob is declared and checked: a dataclass field with its documentation and its limits."""

import math
from dataclasses import field, fields
from typing import Any

CHOICES = "choices"
MINIMUM = "minimum"
HELP = "help"


class ConfigError(ValueError):
    """A configuration that cannot work. The message says what was expected, what came and which option to change."""


def knob(default: Any, doc: str, *, minimum: float | None = None, choices: tuple[str, ...] | None = None) -> Any:
    """A documented field. ``minimum`` is inclusive; both limits are skipped for ``None``."""
    metadata = {HELP: doc, MINIMUM: minimum, CHOICES: choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def validate(config: Any, path: str = "") -> None:
    """Checks every knob's limits, section by section.

    Raises:
        ConfigError: for the first value out of its limits.
    """
    for spec in fields(config):
        option = f"{path}{spec.name}"
        value = getattr(config, spec.name)
        if hasattr(value, "__dataclass_fields__"):
            validate(value, f"{option}.")
            continue
        minimum, choices = spec.metadata.get(MINIMUM), spec.metadata.get(CHOICES)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{option} must be a finite number, got {value}")
        if minimum is not None and value is not None and value < minimum:
            raise ConfigError(f"{option} must be at least {minimum}, got {value}")
        if choices is not None and value not in choices:
            raise ConfigError(f"{option} must be one of {', '.join(choices)}, got {value!r}")
