"""Packs behind any fsspec address. A store that does not answer is a miss, never the end of an engine."""

import contextlib
import os
import time
from pathlib import Path

from envs.dmlab.packs import is_whole


class RemoteTier:
    """
    Raises:
        ValueError, ImportError: if fsspec knows no such address, or lacks a package for it.
    """

    def __init__(self, address: str) -> None:
        import fsspec

        self._files, self._root = fsspec.core.url_to_fs(address)
        with contextlib.suppress(Exception):  # every store has errors of its own kind
            self._files.makedirs(self._root, exist_ok=True)

    def fetch(self, name: str, destination: Path) -> bool:
        try:
            self._files.get_file(f"{self._root}/{name}", str(destination))
        except Exception:
            return False
        return is_whole(destination)

    def write(self, name: str, source: Path) -> bool:
        """Under another name first: a store that is a file system shows half-written files. Returns whether it is there."""
        temporary = f"{self._root}/{name}.{os.getpid()}.{time.monotonic_ns()}.tmp"
        try:
            self._files.put_file(str(source), temporary)
            self._files.mv(temporary, f"{self._root}/{name}")
        except Exception:
            return False
        return True
