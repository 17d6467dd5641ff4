"""An error as a user sees it: one line, without secrets."""

import sys

from conf.one_line import one_line
from conf.places import redacted


def print_error(error: object) -> None:
    """On the error stream. File names and stored texts in it may be somebody else's."""
    print(f"error: {one_line(redacted(str(error)))}", file=sys.stderr)
