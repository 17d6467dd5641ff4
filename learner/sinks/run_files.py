"""The log rows of a run folder: ``metrics.jsonl`` and ``summary.json``."""

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

from learner.sinks.continuation import Continuation
from learner.sinks.sink import Row
from learner.writing import replace_file

MOST_UNWRITTEN = 10_000
"""Rows that are kept for a disk that is full: a day of them at the default interval."""


class JsonlSink:
    """One JSON object per interval, appended; each line whole or not at all. What a full disk does not take follows later.

    Rows beyond the checkpoint that the run goes on from, and a line that a crash left half-written, are removed before the first row.
    """

    def __init__(self, path: Path, continuation: Continuation) -> None:
        self._path = path
        self._keep_bytes = continuation.keep_bytes
        self._file: FileIO | None = None
        self._unwritten: deque[bytes] = deque(maxlen=MOST_UNWRITTEN)

    def write(self, row: Row) -> None:
        self._unwritten.append(json.dumps(_plain(row)).encode() + b"\n")
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
            if self._keep_bytes is not None:
                self._file.truncate(self._keep_bytes)
        while self._unwritten:
            _append(self._file, self._unwritten[0])
            self._unwritten.popleft()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class SummarySink:
    """The newest row as one JSON file, replaced whole: a run that was killed has one too."""

    def __init__(self, path: Path, texts: Mapping[str, str]) -> None:
        self._path = path
        self._texts = dict(texts)

    def write(self, row: Row) -> None:
        replace_file(self._path, json.dumps({**_plain(row), **self._texts}, indent=2) + "\n")

    def close(self) -> None:
        pass


def _append(file: FileIO, line: bytes) -> None:
    """Raises ``OSError``; the file is then as it was."""
    before = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        file.truncate(before)
        raise OSError(error.errno, error.strerror, str(file.name)) from None


def _plain(row: Row) -> dict[str, float | int | None]:
    """Ready for JSON, which has no infinities."""
    return {name: value if value is None or math.isfinite(value) else None for name, value in row.items()}
