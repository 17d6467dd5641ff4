"""What is said of a name that does not exist."""

import difflib
from collections.abc import Sequence


def unknown(what: str, got: str, known: Sequence[str]) -> str:
    """Names what it may have meant, or what there is."""
    close = difflib.get_close_matches(got, known, n=3, cutoff=0.6)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"expected one of {', '.join(known)}"
        if len(known) < 60
        else "see --help"
    )
    return f"unknown {what} {got!r}: {hint}"
