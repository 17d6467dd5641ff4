"""Parts by their names: a name that is not there lists those that are."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

V = TypeVar("V")


def one_of(names: Sequence[str]) -> str:
    """``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def look_up(registry: Mapping[str, V], name: str, what: str) -> V:
    """Raises ``ValueError`` for an unknown name."""
    if name not in registry:
        raise ValueError(f"unknown {what} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]
