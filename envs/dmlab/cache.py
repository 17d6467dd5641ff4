"""Built levels kept on disk: a folder that all engines of a node share, and behind it any store that fsspec knows.

Building a map takes the engine seconds; it asks ``fetch(key, path)`` first and calls ``write(key, path)`` after. A damaged pack ends
the engine's process, so packs appear under their names only when complete, and are checked again, as copied, before they are
handed out. Nothing here raises: a cache that fails costs time only. Failures are told on stderr, which is the engine's log.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".pk3"
UNFINISHED_SUFFIX = ".part"
UNFINISHED_AGE_S = 3600.0
"""An older unfinished file belongs to a writer that died."""
SHRINK_TO = 0.9
"""Of the bound: deleting a little more than needed saves deleting at every write."""
REMOTE_FAILURES = 3
"""In a row, after which an engine stops asking the remote store: each may have cost a long timeout."""


@dataclass(frozen=True, slots=True)
class CacheConfig:
    folder: str
    max_bytes: int
    remote: str | None = None
    """URL of a folder, e.g. ``s3://bucket/levels``."""


class LevelCache:
    """What ``deepmind_lab.Lab(level_cache=...)`` takes; one per process, any number on a folder."""

    def __init__(self, folder: Path, max_bytes: int, remote: "RemoteLevels | None" = None) -> None:
        self.hits = 0
        self.misses = 0
        self._folder = folder
        self._max_bytes = max_bytes
        self._remote = remote
        self._unmeasured = max_bytes  # so that the first write looks how full the folder is

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Puts the pack of ``key`` at ``pk3_path`` if there is a sound one."""
        try:
            found = self._fetch(key, Path(pk3_path))
        except OSError as error:
            _tell(f"cannot read {self._folder}: {error}")
            found = False
        self.hits += found
        self.misses += not found
        return found

    def write(self, key: str, pk3_path: str) -> None:
        """Keeps the pack at ``pk3_path`` for others."""
        pack = Path(pk3_path)
        if not is_sound(pack):
            _tell(f"{pack} is not a whole pack: it is not kept")
            return
        self._keep(pack, self._path(key))
        if self._remote is not None:
            self._remote.put(pack, self._name(key))

    def _fetch(self, key: str, target: Path) -> bool:
        path = self._path(key)
        if _copy_sound(path, target):
            with contextlib.suppress(OSError):
                os.utime(path)  # the least recently used go first
            return True
        if self._remote is None or not self._remote.get(self._name(key), target):
            return False
        self._keep(target, path)
        return True

    def _keep(self, pack: Path, path: Path) -> None:
        size = pack.stat().st_size
        if size > self._max_bytes:
            return
        try:
            try:
                _copy(pack, path)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._shrink(self._used() // 2)
                _copy(pack, path)
            self._unmeasured += size
            if self._unmeasured * 20 > self._max_bytes:
                self._unmeasured = 0
                if self._used() > self._max_bytes:
                    self._shrink(int(self._max_bytes * SHRINK_TO))
        except OSError as error:
            _tell(f"cannot keep a level in {self._folder}: {error}")

    def _used(self) -> int:
        return sum(size for _, size, _ in self._packs())

    def _shrink(self, target_bytes: int) -> None:
        """Deletes the least recently used packs; another process may be doing the same."""
        packs = sorted(self._packs())
        used = sum(size for _, size, _ in packs)
        for _, size, path in packs:
            if used <= target_bytes:
                break
            path.unlink(missing_ok=True)
            used -= size

    def _packs(self) -> Iterator[tuple[float, int, Path]]:
        """``(last use, bytes, path)``; removes what dead writers left."""
        for folder in (self._folder, *(child for child in self._folder.iterdir() if child.is_dir())):
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    if path.suffix == SUFFIX:
                        yield status.st_mtime, status.st_size, path
                    elif path.suffix == UNFINISHED_SUFFIX and time.time() - status.st_mtime > UNFINISHED_AGE_S:
                        path.unlink()

    def _name(self, key: str) -> str:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return f"{digest[:2]}/{digest}{SUFFIX}"

    def _path(self, key: str) -> Path:
        return self._folder / self._name(key)


class RemoteLevels:
    """The second tier: whole objects in a store that fsspec can reach."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._failures = 0

    def get(self, name: str, target: Path) -> bool:
        part = _unfinished(target)
        try:
            with self._files() as (files, root):
                files.get_file(f"{root}/{name}", str(part))
            if not is_sound(part):
                return False
            os.replace(part, target)
            return True
        except FileNotFoundError:
            return False
        finally:
            part.unlink(missing_ok=True)

    def put(self, pack: Path, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._files() as (files, root):
            path = f"{root}/{name}"
            part = f"{path}.{os.getpid()}{UNFINISHED_SUFFIX}"
            files.makedirs(os.path.dirname(path), exist_ok=True)
            files.put_file(str(pack), part)
            files.mv(part, path)

    @contextlib.contextmanager
    def _files(self) -> Iterator[tuple[Any, str]]:
        """The file system and the folder on it. Only "there is no such object" comes out; other failures are told and counted."""
        if self._failures >= REMOTE_FAILURES:
            raise FileNotFoundError
        try:
            import fsspec

            yield fsspec.core.url_to_fs(self._url)
            self._failures = 0
        except FileNotFoundError:
            raise
        except Exception as error:  # every store has exceptions of its own
            self._failures += 1
            _tell(f"{self._url}: {type(error).__name__}: {error}")
            raise FileNotFoundError from error


def open_cache(config: CacheConfig) -> LevelCache:
    remote = None if config.remote is None else RemoteLevels(config.remote)
    return LevelCache(Path(config.folder), config.max_bytes, remote)


def is_sound(pack: Path) -> bool:
    """Whether ``pack`` is a whole zip whose every member has the right checksum."""
    try:
        with zipfile.ZipFile(pack) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError, zlib.error):
        return False


def _copy_sound(source: Path, target: Path) -> bool:
    """Copies a pack, and checks the copy: the original may be deleted meanwhile. A damaged original is removed."""
    part = _unfinished(target)
    try:
        shutil.copyfile(source, part)
        if is_sound(part):
            os.replace(part, target)
            return True
        source.unlink(missing_ok=True)
        return False
    except FileNotFoundError:
        return False
    finally:
        part.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all: written beside its place and renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _unfinished(target)
    try:
        shutil.copyfile(source, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _unfinished(target: Path) -> Path:
    """A name of our own beside ``target``."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}{UNFINISHED_SUFFIX}")


def _tell(what: str) -> None:
    print(f"level cache: {what}", file=sys.stderr, flush=True)
