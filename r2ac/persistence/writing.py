"""A file of the run that cannot be written is one line that names it: a full disk, a folder that went away, a quota."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class CannotWrite(OSError):
    """One line for the user."""

    def __str__(self) -> str:
        return f"{self.filename} could not be written ({self.strerror}): free space there, or choose another run_dir"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what goes wrong inside into ``CannotWrite`` for ``path``."""
    try:
        yield
    except SafetensorError as error:  # the system's error stands in its text only
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise CannotWrite(int(found[1]), os.strerror(int(found[1])), str(path)) from None
    except OSError as error:
        raise CannotWrite(error.errno, error.strerror or str(error), str(path)) from None


def replace_file(path: Path, text: str) -> None:
    """Writes a file whole, or leaves the one that is there.

    Raises:
        CannotWrite: if there is no space, or no folder.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
