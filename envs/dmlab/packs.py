"""Packs: the zips that hold compiled maps. The engine's process does not survive a wrong one, so none is passed on unread."""

import contextlib
import hashlib
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path


def file_name(key: str) -> str:
    """Keys come from the engine and may hold any character."""
    return hashlib.sha256(key.encode()).hexdigest() + ".pk3"


def is_whole(pack: Path) -> bool:
    """Whether every file inside the zip can be read and has its checksum."""
    try:
        with zipfile.ZipFile(pack) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return False


def deliver(pack: Path, destination: Path) -> bool:
    """Puts a copy of ``pack`` at ``destination`` if it is whole, and removes ``pack`` if it is not.

    The copy is checked, not the original: another process may replace that meanwhile. What lies at ``destination`` may be the map
    before; it stays as it is unless the new one is good.

    Raises:
        OSError: if it cannot be read, or not be copied.
    """
    with new_file(destination.parent) as copy:
        shutil.copyfile(pack, copy)
        if is_whole(copy):
            copy.replace(destination)
            return True
    pack.unlink(missing_ok=True)
    return False


@contextlib.contextmanager
def new_file(folder: Path) -> Iterator[Path]:
    """A new file in ``folder``, removed unless it was renamed. Its mode is the umask's choice: others may share the cache.

    Raises:
        OSError: if none can be made there.
    """
    path = folder / f"{os.getpid()}.{time.monotonic_ns()}.tmp"
    path.touch(exist_ok=False)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
