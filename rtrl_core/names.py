"""Parts by their names: a name that is not there lists those that are."""

from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")


def look_up(registry: Mapping[str, V], name: str, what: str) -> V:
    """Raises ``ValueError`` for an unknown name."""
    if name not in registry:
        raise ValueError(f"unknown {what} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]
