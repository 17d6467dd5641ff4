"""The log rows of a run folder: ``metrics.jsonl`` and ``summary.json``."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from r2ac.monitoring.metrics import Row
from r2ac.monitoring.sinks.appended_file import AppendedFile
from r2ac.monitoring.sinks.continuation import Continuation
from r2ac.persistence.writing import replace_file


class JsonlSink:
    """One JSON object per interval, appended.

    Rows beyond the checkpoint that the run goes on from, and a line that a crash left half-written, are removed before the first row.
    """

    def __init__(self, path: Path, continuation: Continuation) -> None:
        self._file = AppendedFile(path, continuation.keep_bytes)

    def write(self, row: Row) -> None:
        self._file.append(json.dumps(_plain(row)).encode() + b"\n")

    def close(self) -> None:
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


def _plain(row: Row) -> dict[str, float | int | None]:
    """Ready for JSON, which has no infinities."""
    return {name: value if value is None or math.isfinite(value) else None for name, value in row.items()}
