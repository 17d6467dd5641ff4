"""Options of a part are the fields of its own dataclass, its ``Options``; this is that of a part that has none."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoOptions:
    """Of a part that has none."""
