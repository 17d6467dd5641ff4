"""The level cache: whole packs or none, whatever happens to the disk, to other writers or to the store behind it."""

import errno
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from envs.dmlab import cache as cache_module
from envs.dmlab.cache import REMOTE_FAILURES, LevelCache, RemoteLevels, is_sound

MIB = 1 << 20


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
    first, second = LevelCache(tmp_path / "cache", MIB), LevelCache(tmp_path / "cache", MIB)
    target = tmp_path / "engine.pk3"
    assert not first.fetch("map/of:level_0123", str(target))
    assert not target.exists()
    first.write("map/of:level_0123", str(pack(tmp_path / "built.pk3", "mine")))
    assert second.fetch("map/of:level_0123", str(target))
    assert content(target) == "mine"
    assert not second.fetch("map/of:level_4567", str(target))
    assert (first.hits, first.misses, second.hits, second.misses) == (0, 1, 1, 1)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "not a pack"])
def test_a_damaged_pack_is_never_handed_out_and_is_replaced(tmp_path: Path, damage: str):
    cache = LevelCache(tmp_path / "cache", MIB)
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


def test_a_damaged_pack_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cache = LevelCache(tmp_path / "cache", MIB)
    built = pack(tmp_path / "built.pk3")
    built.write_bytes(built.read_bytes()[:-40])
    cache.write("key", str(built))
    assert packs_in(tmp_path) == [built]
    assert "not a whole pack" in capsys.readouterr().err


def test_the_least_recently_used_packs_make_room(tmp_path: Path):
    cache = LevelCache(tmp_path / "cache", 50_000)
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
    cache = LevelCache(tmp_path / "cache", 1000)
    cache.write("key", str(pack(tmp_path / "built.pk3", size=5000)))
    assert not packs_in(tmp_path / "cache")


def test_what_a_dead_writer_left_is_removed_and_a_living_ones_is_not(tmp_path: Path):
    cache = LevelCache(tmp_path / "cache", MIB)
    (tmp_path / "cache").mkdir()
    old, young = tmp_path / "cache" / ".a.part", tmp_path / "cache" / ".b.part"
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
    cache = LevelCache(folder, MIB)
    for number in range(6):
        cache.write(f"key {number}", str(pack(tmp_path / "built.pk3", str(number), 5000)))
        assert cache.fetch(f"key {number}", str(tmp_path / "engine.pk3"))
    assert not list(folder.rglob("*.part"))


def test_a_disk_that_stays_full_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cache_module.shutil, "copyfile", FullDisk(tmp_path / "cache", 0))
    cache = LevelCache(tmp_path / "cache", MIB)
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    assert not cache.fetch("key", str(tmp_path / "engine.pk3"))
    assert not list((tmp_path / "cache").rglob("*.p*"))
    assert "cannot keep a level" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_costs_time_only(tmp_path: Path):
    (tmp_path / "file").touch()
    cache = LevelCache(tmp_path / "file" / "cache", MIB)
    assert not cache.fetch("key", str(tmp_path / "engine.pk3"))
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    assert cache.misses == 1


WRITER = """
import sys
from pathlib import Path
from envs.dmlab.cache import LevelCache
folder, built, target = sys.argv[1:]
cache = LevelCache(Path(folder), 1 << 20)
for number in range(150):
    cache.write(f"key {number % 3}", built)
    assert cache.fetch(f"key {number % 3}", target), "a pack was not whole"
"""


def test_two_writers_and_readers_of_the_same_keys_never_meet_half_a_pack(tmp_path: Path):
    writers = []
    for name in ("a", "b"):
        built = pack(tmp_path / f"{name}.pk3", name * 40_000, 40_000)
        command = [sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(built), str(tmp_path / f"{name}.target")]
        writers.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said
    assert len(packs_in(tmp_path / "cache")) == 3
    assert all(is_sound(path) for path in packs_in(tmp_path / "cache"))


def test_a_second_node_finds_levels_in_the_remote_store(tmp_path: Path):
    url = f"file://{tmp_path}/store"
    here, there = (LevelCache(tmp_path / node, MIB, RemoteLevels(url)) for node in ("here", "there"))
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
    cache = LevelCache(tmp_path / "here", MIB, RemoteLevels(f"file://{tmp_path}/store"))
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    (stored,) = packs_in(tmp_path / "store")
    stored.write_bytes(stored.read_bytes()[:300])
    other = LevelCache(tmp_path / "there", MIB, RemoteLevels(f"file://{tmp_path}/store"))
    assert not other.fetch("key", str(tmp_path / "engine.pk3"))
    assert not packs_in(tmp_path / "there")


def test_a_store_that_fails_is_told_and_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cache = LevelCache(tmp_path / "here", MIB, RemoteLevels("nosuchprotocol://bucket/levels"))
    for number in range(5):
        assert not cache.fetch(f"key {number}", str(tmp_path / "engine.pk3"))
    cache.write("key", str(pack(tmp_path / "built.pk3")))
    assert cache.fetch("key", str(tmp_path / "engine.pk3"))
    assert capsys.readouterr().err.count("nosuchprotocol") >= REMOTE_FAILURES
