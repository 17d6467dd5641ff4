"""The level cache: compiled maps, kept so that no level is built twice. It is what the engine calls ``level_cache``.

    fetch    folder of this machine -> remote tier -> no: the engine builds the level
    write    engine -> folder -> remote tier

A wrong pack ends the engine's process, so packs appear under their names only when they are whole, and every one is read and
checked before it is handed out. Any number of processes and users may share a folder. A cache never stops a run: what it cannot do,
for instance on a full disk, is a miss, or a failure if the pack is lost for others.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from envs.dmlab.packs import deliver, file_name, is_whole, new_file
from envs.dmlab.remote_tier import RemoteTier

KEPT_SHARE = 0.9
"""Of the bound: what an eviction leaves, so that the next ones are not due at once."""
ABANDONED_AFTER_S = 3600.0
"""A temporary file this old has no writer any more."""
LOOK_EVERY_BYTES = 64 << 20
"""Written by one process before it looks at the size of the whole folder again."""


@dataclass(frozen=True, slots=True)
class CacheOptions:
    folder: str
    remote: str | None
    size_bytes: int

    def why_unwritable(self) -> str | None:
        """Why no pack can be put into the folder; ``None`` if one can."""
        try:
            with new_file(Path(self.folder)):
                return None
        except OSError as error:
            return error.strerror or str(error)


class CacheCounts(NamedTuple):
    hits: int = 0
    misses: int = 0
    failures: int = 0
    """Packs that were built and could not be kept, in the folder or behind it."""

    def plus(self, other: "CacheCounts") -> "CacheCounts":
        return CacheCounts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class LevelCache:
    """``fetch`` and ``write`` as the engine calls them, from its constructor, its resets and in the middle of a step."""

    def __init__(self, options: CacheOptions) -> None:
        self.counts = CacheCounts()
        self._folder = Path(options.folder)
        self._size_bytes = options.size_bytes
        self._remote = None if options.remote is None else RemoteTier(options.remote)
        self._written = LOOK_EVERY_BYTES

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Puts the pack of ``key`` at ``pk3_path`` if there is a good one."""
        name, destination = file_name(key), Path(pk3_path)
        found = self._fetch_here(name, destination) or self._fetch_remote(name, destination)
        self.counts = self.counts.plus(CacheCounts(hits=found, misses=not found))
        return found

    def _fetch_here(self, name: str, destination: Path) -> bool:
        kept = self._folder / name
        try:
            found = kept.exists() and deliver(kept, destination)
        except OSError:  # unreadable, evicted meanwhile, or no space
            return False
        if found:
            with contextlib.suppress(OSError):  # somebody else's may be read only, or be gone by now
                os.utime(kept)  # most recently used
        return found

    def _fetch_remote(self, name: str, destination: Path) -> bool:
        if self._remote is None:
            return False
        try:
            with new_file(destination.parent) as temporary:
                if not self._remote.fetch(name, temporary):
                    return False
                temporary.replace(destination)
        except OSError:
            return False
        self._keep(name, destination)
        return True

    def write(self, key: str, pk3_path: str) -> None:
        """Keeps the pack that the engine has just built."""
        name, built = file_name(key), Path(pk3_path)
        kept = is_whole(built)
        if kept:
            kept = self._keep(name, built)
            if self._remote is not None:
                kept = self._remote.write(name, built) and kept
        self.counts = self.counts.plus(CacheCounts(failures=not kept))

    def _keep(self, name: str, pack: Path) -> bool:
        """Whether the folder has the pack now."""
        for attempt in range(2):
            try:
                self._put(name, pack)
            except OSError:
                # A full disk: half of the cache for the newest pack, once; if that does not help, the level is built again.
                if attempt == 0:
                    self._evict(self._folder_size() // 2)
            else:
                return True
        return False

    def _put(self, name: str, pack: Path) -> None:
        with new_file(self._folder) as temporary:
            shutil.copyfile(pack, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            size = temporary.stat().st_size
            temporary.replace(self._folder / name)
        self._written += size
        if self._written >= min(LOOK_EVERY_BYTES, self._size_bytes // 8):
            self._written = 0
            if self._folder_size() > self._size_bytes:
                self._evict(int(KEPT_SHARE * self._size_bytes))

    def _folder_size(self) -> int:
        return sum(size for _, size, _ in self._packs())

    def _packs(self) -> list[tuple[float, int, str]]:
        """``(last used, bytes, path)`` of every pack; sweeps what writers left behind that were killed."""
        packs: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    if entry.name.endswith(".pk3"):
                        packs.append((status.st_mtime, status.st_size, entry.path))
                    elif entry.name.endswith(".tmp") and time.time() - status.st_mtime > ABANDONED_AFTER_S:
                        os.unlink(entry.path)
        return packs

    def _evict(self, limit_bytes: int) -> None:
        """Removes the least recently used packs until ``limit_bytes`` are left, unless another process is at it."""
        with contextlib.suppress(OSError), _opened(self._folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            packs = sorted(self._packs())
            total = sum(size for _, size, _ in packs)
            for _, size, path in packs:
                if total <= limit_bytes:
                    break
                try:
                    os.unlink(path)
                except FileNotFoundError:  # another process was quicker
                    pass
                except OSError:  # not ours to remove
                    continue
                total -= size


@contextlib.contextmanager
def _opened(lock: Path) -> Iterator[int]:
    """For reading only, which is enough to lock it: it may be another user's."""
    handle = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)
