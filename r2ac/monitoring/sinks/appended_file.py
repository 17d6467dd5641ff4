"""A file that grows by whole records, on a disk that may be full for a while."""

import os
from collections import deque
from io import FileIO
from pathlib import Path

MOST_UNWRITTEN = 10_000
"""Records that are kept for a disk that is full: a day of rows at the default interval."""


class AppendedFile:
    """Each record whole or not at all. What a full disk does not take follows with the first record that it does.

    Args:
        keep_bytes: length to which a file that is there is cut; ``None`` keeps all of it.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None) -> None:
        self._path = path
        self._keep_bytes = keep_bytes
        self._file: FileIO | None = None
        self._unwritten: deque[bytes] = deque(maxlen=MOST_UNWRITTEN)

    def append(self, record: bytes) -> None:
        """Raises ``OSError`` if there is no room; the file is then as it was."""
        self._unwritten.append(record)
        self._write_all()

    def close(self) -> None:
        if self._unwritten:
            self._write_all()
        if self._file is not None:
            self._file.close()

    def _write_all(self) -> None:
        if self._file is None:
            self._path.parent.mkdir(exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            if self._keep_bytes is not None:
                self._file.truncate(self._keep_bytes)
        while self._unwritten:
            _append(self._file, self._unwritten[0])
            self._unwritten.popleft()


def _append(file: FileIO, record: bytes) -> None:
    before = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(record)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        file.truncate(before)
        raise OSError(error.errno, error.strerror, str(file.name)) from None
