"""A run folder's copy on any storage that fsspec knows: s3://, gs://, file://, ...

Training works on a local folder. After each checkpoint the folder is copied out, and a job that starts elsewhere copies it in first.
A checkpoint counts when its manifest is there, and the manifest is always written last and deleted first.
"""

from pathlib import Path
from typing import Any

import fsspec

from r2ac.persistence.checkpoint import FOLDER, MANIFEST, available

LOGS = ("config.yaml", "sized.yaml", "metrics.jsonl", "summary.json")
EVENTS = "tensorboard"


class StorageError(RuntimeError):
    """A URL that cannot be used, or storage that does not answer. One line for the user."""


def open_storage(url: str) -> tuple[Any, str]:
    """The file system of a URL or local path, and the path within it, without a slash at its end.

    Raises:
        StorageError: for an unknown protocol, or one whose library is not installed.
    """
    try:
        files, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StorageError(f"run_dir={url} cannot be used: {error}") from None
    return files, root.rstrip("/")


class Mirror:
    """Copies a run folder out and in."""

    def __init__(self, files: Any, root: str, local: Path) -> None:
        self._files, self._root, self._local = files, root, local
        self._same: set[str] = set()
        """Checkpoints that are known to be the same here and there."""

    def publish(self) -> None:
        """Copies out the checkpoints that are not there yet, then the logs; removes what was pruned here.

        Raises:
            OSError: if the storage does not take it; what it had is still whole.
        """
        here = {path.name for path in available(self._local)}
        there = set(self._complete())
        for name in sorted(here):
            if name in there:
                if self._is_same(name):
                    continue
                self._files.rm_file(f"{self._root}/{FOLDER}/{name}/{MANIFEST}")
            folder = self._local / FOLDER / name
            files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
            for path in [*files, folder / MANIFEST]:
                self._put(path)
            self._same.add(name)
        self._put_logs()
        for name in sorted(there - here):
            self._files.rm_file(f"{self._root}/{FOLDER}/{name}/{MANIFEST}")
            self._files.rm(f"{self._root}/{FOLDER}/{name}", recursive=True)

    def fetch(self) -> None:
        """Copies everything in that this machine does not have. Does nothing for a run that was never published.

        Raises:
            OSError: if the storage does not answer.
        """
        there = self._complete()
        here = {path.name for path in available(self._local)}
        if not there or (here and max(here) >= max(there)):
            return  # this machine is ahead: the last publication did not come through
        for name in there:
            if name not in here:
                names = self._names(f"{self._root}/{FOLDER}/{name}")
                for file in sorted(names, key=lambda file: file == MANIFEST):
                    self._get(f"{FOLDER}/{name}/{file}")
        for file in self._names(self._root):
            if file in LOGS:
                self._get(file)
        for file in self._names(f"{self._root}/{EVENTS}"):
            self._get(f"{EVENTS}/{file}")

    def _is_same(self, name: str) -> bool:
        """What a run has written in the place of a damaged one may have its name."""
        if name not in self._same:
            manifest = f"{FOLDER}/{name}/{MANIFEST}"
            if self._files.cat_file(f"{self._root}/{manifest}") != (self._local / manifest).read_bytes():
                return False
            self._same.add(name)
        return True

    def _complete(self) -> list[str]:
        names = self._names(f"{self._root}/{FOLDER}")
        return sorted(
            name for name in names if name.isdigit() and self._files.exists(f"{self._root}/{FOLDER}/{name}/{MANIFEST}")
        )

    def _names(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        if not self._files.exists(folder):
            return []
        return [str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(folder, detail=False)]

    def _put_logs(self) -> None:
        events = self._local / EVENTS
        logs = [self._local / name for name in LOGS] + (sorted(events.iterdir()) if events.is_dir() else [])
        for path in logs:
            if path.is_file():
                self._put(path)

    def _put(self, path: Path) -> None:
        target = f"{self._root}/{path.relative_to(self._local).as_posix()}"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(target, path.read_bytes())

    def _get(self, name: str) -> None:
        target = self._local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        temporary.write_bytes(self._files.cat_file(f"{self._root}/{name}"))
        temporary.replace(target)
