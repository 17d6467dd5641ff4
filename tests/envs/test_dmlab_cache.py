"""The level cache: whole packs or none, whatever happens to the disk, to other writers or to the store behind it."""

import errno
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from patience import patience

from envs.dmlab import cache as cache_module
from envs.dmlab.cache import CacheCounts, CacheOptions, LevelCache
from envs.dmlab.packs import is_whole

MIB = 1 << 20


def open_cache(folder: Path, size_bytes: int = MIB, remote: str | None = None) -> LevelCache:
    folder.mkdir(parents=True, exist_ok=True)
    return LevelCache(CacheOptions(str(folder), remote, size_bytes))


def pack(path: Path, content: str = "map", size: int = 1000) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("maps/level.bsp", content.encode().ljust(size, b"."))
    return path


def content(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read("maps/level.bsp").decode().rstrip(".")


def packs_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.pk3"))


def test_what_one_engine_builds_another_finds(tmp_path: Path):
    first, second = open_cache(tmp_path / "cache"), open_cache(tmp_path / "cache")
    target = tmp_path / "engine.pk3"
    assert not first.fetch("map/of:level_0123", str(target))
    assert not target.exists()
    first.write("map/of:level_0123", str(pack(tmp_path / "built.pk3", "mine")))
    assert second.fetch("map/of:level_0123", str(target))
    assert content(target) == "mine"
    assert not second.fetch("map/of:level_4567", str(target))
    assert (first.counts, second.counts) == (CacheCounts(misses=1), CacheCounts(hits=1, misses=1))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "not a pack"])
def test_a_damaged_pack_is_never_handed_out_and_is_replaced(tmp_path: Path, damage: str):
    cache = open_cache(tmp_path / "cache")
    built = pack(tmp_path / "built.pk3", "good", 5000)
    cache.write("key", str(built))
    (kept,) = packs_in(tmp_path / "cache")
    whole = bytearray(kept.read_bytes())
    flipped = bytes([*whole[:200], whole[200] ^ 1, *whole[201:]])
    kept.write_bytes({"truncated": whole[:700], "one byte": flipped, "empty": b"", "not a pack": b"x" * 900}[damage])
    target = tmp_path / "engine.pk3"
    assert not cache.fetch("key", str(target))
    assert not target.exists()
    assert not kept.exists()
    cache.write("key", str(built))
    assert cache.fetch("key", str(target))
    assert content(target) == "good"


@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_whoever_the_umask_lets_can_read_a_pack(tmp_path: Path, umask: int):
    """Another user's engines share the folder; a pack that they cannot read would be a miss without a word."""
    store = tmp_path / "store"
    before = os.umask(umask)
    try:
        first = open_cache(tmp_path / "first", remote=f"file://{store}")
        first.write("key", str(pack(tmp_path / "built.pk3")))
        second = open_cache(tmp_path / "second", remote=f"file://{store}")
        assert second.fetch("key", str(tmp_path / "engine.pk3"))
    finally:
        os.umask(before)
    found = packs_in(tmp_path / "first") + packs_in(tmp_path / "second") + packs_in(store)
    assert [stat.S_IMODE(path.stat().st_mode) for path in found] == [0o666 & ~umask] * 3


def test_a_pack_that_is_somebody_elses_is_used_although_it_cannot_be_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = open_cache(tmp_path / "cache")
    cache.write("key", str(pack(tmp_path / "built.pk3", "theirs")))

    def denied(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", denied)
    assert cache.fetch("key", str(tmp_path / "engine.pk3"))
    assert content(tmp_path / "engine.pk3") == "theirs"


@pytest.mark.parametrize("obstacle", ["unreadable", "damaged", "absent"])
def test_what_lies_where_a_pack_should_go_is_never_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
):
    """The engine asks for the next map with the one before still in its place."""
    cache = open_cache(tmp_path / "cache")
    cache.write("key", str(pack(tmp_path / "built.pk3", "wanted")))
    (kept,) = packs_in(tmp_path / "cache")
    target = pack(tmp_path / "engine.pk3", "the map before")
    copy = cache_module.shutil.copyfile

    def unreadable(source: Path, destination: Path) -> None:
        if source == kept:
            raise PermissionError(errno.EACCES, "Permission denied")
        copy(source, destination)

    if obstacle == "unreadable":
        monkeypatch.setattr(cache_module.shutil, "copyfile", unreadable)
    elif obstacle == "damaged":
        kept.write_bytes(kept.read_bytes()[:300])
    else:
        kept.unlink()
    assert not cache.fetch("key", str(target))
    assert content(target) == "the map before"
    monkeypatch.undo()
    cache.write("key", str(tmp_path / "built.pk3"))
    assert cache.fetch("key", str(target))
    assert content(target) == "wanted"


def test_a_damaged_pack_is_not_kept(tmp_path: Path):
    cache = open_cache(tmp_path / "cache")
    built = pack(tmp_path / "built.pk3")
    built.write_bytes(built.read_bytes()[:-40])
    cache.write("key", str(built))
    assert packs_in(tmp_path) == [built]


def test_the_least_recently_used_packs_make_room(tmp_path: Path):
    cache = open_cache(tmp_path / "cache", 50_000)
    target = tmp_path / "engine.pk3"
    for number in range(40):
        cache.write(f"key {number}", str(pack(tmp_path / "built.pk3", str(number), 5000)))
        for path in packs_in(tmp_path / "cache"):  # what was written or used before lies further back
            status = path.stat()
            os.utime(path, (status.st_mtime - 10, status.st_mtime - 10))
        assert cache.fetch("key 0", str(target)), "a pack in use was deleted"
    assert sum(path.stat().st_size for path in packs_in(tmp_path / "cache")) <= 50_000
    assert cache.fetch("key 39", str(target))
    assert not cache.fetch("key 2", str(target))


def test_a_pack_larger_than_the_whole_cache_is_not_kept(tmp_path: Path):
    cache = open_cache(tmp_path / "cache", 1000)
    cache.write("key", str(pack(tmp_path / "built.pk3", size=5000)))
    assert not packs_in(tmp_path / "cache")


def test_what_a_dead_writer_left_is_removed_and_a_living_ones_is_not(tmp_path: Path):
    cache = open_cache(tmp_path / "cache")
    old, young = tmp_path / "cache" / "a.tmp", tmp_path / "cache" / "b.tmp"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    assert not old.exists()
    assert young.exists()


class FullDisk:
    """Copies until ``room`` bytes are used; deleting makes room again."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder, self.room, self.copy = folder, room, cache_module.shutil.copyfile

    def __call__(self, source: Path, target: Path) -> None:
        used = sum(path.stat().st_size for path in self.folder.rglob("*.pk3"))
        if self.folder in Path(target).parents and used + source.stat().st_size > self.room:
            Path(target).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        self.copy(source, target)


def test_a_full_disk_makes_room_and_the_next_pack_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(cache_module.shutil, "copyfile", FullDisk(folder, 12_000))
    cache = open_cache(folder)
    for number in range(6):
        cache.write(f"key {number}", str(pack(tmp_path / "built.pk3", str(number), 5000)))
        assert cache.fetch(f"key {number}", str(tmp_path / "engine.pk3"))
    assert not list(folder.rglob("*.tmp"))


def test_a_disk_that_stays_full_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache_module.shutil, "copyfile", FullDisk(tmp_path / "cache", 0))
    cache = open_cache(tmp_path / "cache")
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    assert not cache.fetch("key", str(tmp_path / "engine.pk3"))
    assert cache.counts == CacheCounts(misses=1, failures=1)
    assert not list((tmp_path / "cache").rglob("*.p*"))


def test_a_folder_that_is_gone_costs_time_only(tmp_path: Path):
    cache = open_cache(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    assert not cache.fetch("key", str(tmp_path / "engine.pk3"))
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    assert cache.counts == CacheCounts(misses=1, failures=1)


WRITER = """
import sys
from envs.dmlab.cache import CacheOptions, LevelCache
folder, built, target = sys.argv[1:]
cache = LevelCache(CacheOptions(folder, None, 1 << 20))
for number in range(150):
    cache.write(f"key {number % 3}", built)
    assert cache.fetch(f"key {number % 3}", target), "a pack was not whole"
"""


def test_two_writers_and_readers_of_the_same_keys_never_meet_half_a_pack(tmp_path: Path):
    (tmp_path / "cache").mkdir()
    writers = []
    for name in ("a", "b"):
        built = pack(tmp_path / f"{name}.pk3", name * 40_000, 40_000)
        command = [sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(built), str(tmp_path / f"{name}.target")]
        writers.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    said = [writer.communicate(timeout=patience(60))[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert len(packs_in(tmp_path / "cache")) == 3
    assert all(is_whole(path) for path in packs_in(tmp_path / "cache"))


def test_a_second_node_finds_levels_in_the_remote_store(tmp_path: Path):
    url = f"file://{tmp_path}/store"
    here, there = (open_cache(tmp_path / node, remote=url) for node in ("here", "there"))
    target = tmp_path / "engine.pk3"
    assert not here.fetch("key", str(target))
    here.write("key", str(pack(tmp_path / "built.pk3", "mine")))
    assert there.fetch("key", str(target))
    assert content(target) == "mine"
    assert len(packs_in(tmp_path / "there")) == 1, "the next fetch on this node needs no store"
    for path in packs_in(tmp_path / "store"):
        path.unlink()
    assert there.fetch("key", str(target))


def test_a_damaged_pack_of_the_store_is_not_handed_out(tmp_path: Path):
    cache = open_cache(tmp_path / "here", remote=f"file://{tmp_path}/store")
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    (stored,) = packs_in(tmp_path / "store")
    stored.write_bytes(stored.read_bytes()[:300])
    other = open_cache(tmp_path / "there", remote=f"file://{tmp_path}/store")
    assert not other.fetch("key", str(tmp_path / "engine.pk3"))
    assert not packs_in(tmp_path / "there")


def test_a_store_that_fails_costs_time_only(tmp_path: Path):
    store = tmp_path / "store"
    cache = open_cache(tmp_path / "here", remote=f"file://{store}")
    store.rmdir()
    store.touch()  # a file where the folder was: every access fails
    for number in range(5):
        assert not cache.fetch(f"key {number}", str(tmp_path / "engine.pk3"))
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    assert cache.fetch("key", str(tmp_path / "engine.pk3"))
