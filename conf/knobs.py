"""How a knob is declared and checked: a dataclass field with its documentation and its limits."""

import math
import unicodedata
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any

from conf.one_line import one_line

CHOICES = "choices"
MINIMUM = "minimum"
MAXIMUM = "maximum"
LENGTH = "length"
PLACE = "place"
HELP = "help"

MAX_SEED = 2**63 - 1
"""What every generator takes: torch's and NumPy's."""
MAX_STEPS = 2**53
"""Counts up to here are exact wherever they go, JSON and floats included."""
MAX_S = 1e8
"""Three years. Waiting takes no longer, and no system call overflows."""
MAX_BYTES = 2**50
BELOW_ONE = 1 - 1e-9
MAX_TEXT = 4096
"""Characters of a text: what a path may have."""

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's control characters, halves of characters, and ends of lines."""


class ConfigError(ValueError):
    """A configuration that cannot work. The message says what was expected, what came and which option to change."""


def knob(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    length: tuple[int, int] | None = None,
    choices: tuple[str, ...] | None = None,
    place: bool | Callable[[Any], bool] = False,
) -> Any:
    """A documented field. Limits are inclusive, hold for each element of a list, and are skipped for ``None``.

    Args:
        length: fewest and most elements of a list.
        place: true for what names a place outside of the program: a path, an address, a destination. In a stored configuration it is
            ignored (``conf/stored.py``), and a value that was interpolated into it is stored as it was typed. A function says
            which values of a part of the task itself do so, such as ``module:Id``: these are refused until the caller repeats them.
    """
    metadata = {HELP: doc, MINIMUM: minimum, MAXIMUM: maximum, LENGTH: length, CHOICES: choices, PLACE: place}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
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
        length, choices = spec.metadata.get(LENGTH), spec.metadata.get(CHOICES)
        if length is not None and value is not None and not length[0] <= len(value) <= length[1]:
            raise ConfigError(f"{option} must have {_count(*length)} elements, got {len(value)}")
        for element in value if isinstance(value, list) else [value]:  # a list's elements are no lists
            _validate_one(option, element, spec.metadata.get(MINIMUM), spec.metadata.get(MAXIMUM))
        if choices is not None and value not in choices:
            raise ConfigError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def _validate_one(option: str, value: Any, minimum: float | None, maximum: float | None) -> None:
    if isinstance(value, list) or (minimum is not None and isinstance(value, dict)):
        raise ConfigError(f"{option} must hold single values, got {one_line(value, 80)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{option} must be a finite number, got {value}")
    if minimum is not None and value is not None and value < minimum:
        raise ConfigError(f"{option} must be at least {minimum}, got {value}")
    if maximum is not None and value is not None and value > maximum:
        raise ConfigError(f"{option} must be at most {maximum}, got {value}")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ConfigError(f"{option} must have at most {MAX_TEXT} characters, got {len(value)}")
    if isinstance(value, str) and any(unicodedata.category(character) in UNPRINTABLE for character in value):
        raise ConfigError(f"{option} must be one line without control characters, got {value[:80]!a}")


def _count(fewest: int, most: int) -> str:
    return str(fewest) if fewest == most else f"{fewest} to {most}"
