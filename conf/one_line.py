"""Text of others, made fit for a line of a terminal or a log: nothing in it moves the cursor, colours, or begins a line of its own."""

import unicodedata

_MOVES = ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")
"""Unicode's categories of what is no character to be seen; ``Cf`` has the marks that turn the direction of writing."""


def visible(text: str) -> str:
    """Lines stay lines; what else cannot be seen becomes a question mark."""
    return "".join("?" if c != "\n" and unicodedata.category(c) in _MOVES else c for c in text)


def one_line(text: object, limit: int = 2000) -> str:
    """Lines are joined by blanks, what cannot be seen becomes a question mark, what is endless ends in three dots."""
    seen = visible(" ".join(str(text).split())[: limit + 1])
    return seen if len(seen) <= limit else f"{seen[:limit]}..."
