"""The level cache: compiled maps, kept so that no level is built twice. It is what the engine calls ``level_cache``.

    fetch    folder of this machine -> remote tier -> no: the engine builds the level
    write    engine -> folder -> remote tier

A wrong pack ends the engine's process, so packs appear under their names only when they are whole, and every one is read and
checked before it is handed out. Any number of processes may share a folder. A cache never stops a run: what it cannot do, for
instance on a full disk, is a miss.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


class LevelCache:
    """``fetch`` and ``write`` as the engine calls them, from its constructor, its resets and in the middle of a step."""

    def __init__(self, options: CacheOptions) -> None:
        self.hits = 0
        self.misses = 0
        self._folder = Path(options.folder)
        self._size_bytes = options.size_bytes
        self._remote = None if options.remote is None else RemoteTier(options.remote)
        self._written = LOOK_EVERY_BYTES

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Puts the pack of ``key`` at ``pk3_path`` if there is a good one."""
        found = self._fetch(file_name(key), Path(pk3_path))
        self.hits += found
        self.misses += not found
        return found

    def _fetch(self, name: str, destination: Path) -> bool:
        kept = self._folder / name
        try:
            if _copy_if_whole(kept, destination):
                os.utime(kept)  # most recently used
                return True
            if self._remote is None:
                return False
            with _temporary(self._folder) as temporary:
                if not self._remote.fetch(name, temporary) or not _copy_if_whole(temporary, destination):
                    return False
                self._keep(temporary, kept)
        except OSError:
            # Unreadable, evicted meanwhile, or no space: only a pack that has reached its destination whole is a hit.
            if not is_whole(destination):
                destination.unlink(missing_ok=True)
                return False
        return True

    def write(self, key: str, pk3_path: str) -> None:
        """Keeps the pack that the engine has just built."""
        name, built = file_name(key), Path(pk3_path)
        if not is_whole(built):
            return
        for attempt in range(2):
            try:
                with _temporary(self._folder) as temporary:
                    shutil.copyfile(built, temporary)
                    self._keep(temporary, self._folder / name)
                break
            except OSError:
                # A full disk: half of the cache for the newest pack, once; if that does not help, the level is built again.
                if attempt == 0:
                    self._evict(self._folder_size() // 2)
        if self._remote is not None:
            self._remote.write(name, built)

    def _keep(self, temporary: Path, kept: Path) -> None:
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        temporary.replace(kept)
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
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    if entry.name.endswith(".pk3"):
                        packs.append((status.st_mtime, status.st_size, entry.path))
                    elif entry.name.endswith(".tmp") and time.time() - status.st_mtime > ABANDONED_AFTER_S:
                        os.unlink(entry.path)
        return packs

    def _evict(self, limit_bytes: int) -> None:
        """Removes the least recently used packs until ``limit_bytes`` are left, unless another process is at it."""
        with contextlib.suppress(OSError), (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            packs = sorted(self._packs())
            total = sum(size for _, size, _ in packs)
            for _, size, path in packs:
                if total <= limit_bytes:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                total -= size


class RemoteTier:
    """Packs behind any fsspec address. A store that does not answer is a miss, never the end of an engine."""

    def __init__(self, address: str) -> None:
        import fsspec

        self._files, self._root = fsspec.core.url_to_fs(address)
        self._files.makedirs(self._root, exist_ok=True)

    def fetch(self, name: str, destination: Path) -> bool:
        try:
            self._files.get_file(f"{self._root}/{name}", str(destination))
        except Exception:  # every store has errors of its own kind
            return False
        return is_whole(destination)

    def write(self, name: str, source: Path) -> None:
        """Under another name first: a store that is a file system shows half-written files."""
        temporary = f"{self._root}/{name}.{os.getpid()}.{time.monotonic_ns()}.tmp"
        with contextlib.suppress(Exception):
            self._files.put_file(str(source), temporary)
            self._files.mv(temporary, f"{self._root}/{name}")


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


def _copy_if_whole(pack: Path, destination: Path) -> bool:
    """A pack that is not whole is removed. The copy is checked, not the original: another process may replace that meanwhile."""
    if not pack.exists():
        return False
    shutil.copyfile(pack, destination)
    if is_whole(destination):
        return True
    destination.unlink()
    pack.unlink(missing_ok=True)
    return False


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A new file in ``folder``, removed unless it was renamed."""
    handle, name = tempfile.mkstemp(suffix=".tmp", dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
