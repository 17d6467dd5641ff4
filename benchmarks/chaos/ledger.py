"""What processes write down that may be killed at any moment: a line of JSON per event, a file per process."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Ledger:
    """What is written is the system's at once, and outlives the process."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: str, **entry: Any) -> None:
        """``at`` is of the one monotonic clock of this machine, which no jump of the other reaches."""
        line = json.dumps({"event": event, "at": time.monotonic(), **entry})
        os.write(self._file, f"{line}\n".encode())


def read(folder: Path, name: str) -> Iterator[list[Entry]]:
    """The entries of each process whose ledger's name begins so, those that began first first. A last line that is torn is left out."""
    books = []
    for path in folder.glob(f"{name}*.jsonl"):
        *lines, _ = path.read_text().split("\n")
        if lines:
            books.append([json.loads(line) for line in lines])
    yield from sorted(books, key=lambda entries: entries[0]["at"])
