"""Two attempts of one job never write the same run folder; storage behind a URL holds what a job needs to go on."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from patience import patience

from r2ac.persistence import lease as leases
from r2ac.persistence.checkpoint import FOLDER, MANIFEST, available
from r2ac.persistence.lease import BEAT_S, EXPIRY_S, Attempt, Lease, LeaseError
from r2ac.persistence.run_folder import RunFolder, RunFolderError, copy_name
from r2ac.persistence.storage import Mirror


class FakeClock:
    """In the place of the lease's ``time``: only sleeping takes time, and meanwhile others do what they do."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.slept_s = 0.0
        self._meanwhile = meanwhile

    def time(self) -> float:
        return time.time() + self.slept_s

    def monotonic(self) -> float:
        return self.slept_s

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self._meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


def attempt_file(run: Path, number: int) -> Path:
    return run / "attempts" / f"{number:06d}.json"


def pretend(run: Path, number: int, **changes: object) -> None:
    """Rewrites an attempt's file as if another process had written it."""
    attempt = json.loads(attempt_file(run, number).read_text())
    attempt_file(run, number).write_text(json.dumps(attempt | changes))


def make_checkpoint(run: Path, steps: int, content: str = "weights") -> None:
    folder = run / FOLDER / f"{steps:012d}"
    folder.mkdir(parents=True)
    (folder / "learner.safetensors").write_text(content)
    (folder / MANIFEST).write_text("{}")


def test_a_folder_in_use_is_refused_in_one_line_that_names_the_owner(tmp_path: Path) -> None:
    with RunFolder.open(str(tmp_path / "run")) as folder:
        assert folder.attempt == 1
        with pytest.raises(RunFolderError, match=rf"in use by attempt 1 \(process {os.getpid()} on") as error:
            RunFolder.open(str(tmp_path / "run"))
        assert "\n" not in str(error.value)
        folder.check()


def test_the_next_attempt_begins_when_the_last_has_ended(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with RunFolder.open(str(tmp_path / "run")) as folder:
            assert folder.attempt == number
            folder.check()


@pytest.mark.seconds
def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path: Path, clock: FakeClock) -> None:
    program = (
        "import sys, time; from r2ac.persistence.run_folder import RunFolder\n"
        "with RunFolder.open(sys.argv[1]): print('ready', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner:
        assert owner.stdout.readline() == "ready\n"
        with pytest.raises(RunFolderError, match="in use"):
            RunFolder.open(str(tmp_path / "run"))
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    with RunFolder.open(str(tmp_path / "run")) as folder:
        assert folder.attempt == 2
    assert clock.slept_s == 0


class Counted(LocalFileSystem):
    """Counts what is done with a lease's files."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.beats = threading.Semaphore(0)

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        self.done.append("list")
        return super().ls(path, detail, **options)

    def cat_file(self, path: str, **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.done.append("read")
        return super().cat_file(path, **options)


class CountedLease(Lease):
    """Of a ``Counted``, also of what it writes past it: local files are written in place."""

    def _write(self, number: int, attempt: Attempt) -> None:
        self._files.done.append("write")
        super()._write(number, attempt)
        self._files.beats.release()


def test_a_lease_touches_its_files_no_more_than_it_needs(tmp_path: Path) -> None:
    with CountedLease(Counted(), str(tmp_path), beat_s=0.05):
        pass
    files = Counted()
    with CountedLease(files, str(tmp_path), beat_s=0.05) as lease:
        assert files.done[:2] == [
            "list",
            "read",
        ]  # the newest attempt, and whether it has ended; then its own is created
        assert files.beats.acquire(timeout=patience(10))
        files.done.clear()
        assert files.beats.acquire(timeout=patience(10))
        assert set(files.done) == {"write"}
    files.done.clear()
    lease.check()
    assert files.done == ["list"]


def test_waiting_for_an_owner_elsewhere_reads_twice_per_beat(tmp_path: Path, clock: FakeClock) -> None:
    with Lease(Counted(), str(tmp_path)):
        pass
    pretend(tmp_path, 1, ended=False, machine="another", time=time.time())
    files = Counted()
    with Lease(files, str(tmp_path), beat_s=5.0, expiry_s=30.0) as lease:
        assert lease.number == 2
        assert files.done.count("read") == 1 + 2 * 30 / 5


def test_a_process_number_that_was_given_away_again_is_not_the_owner(tmp_path: Path) -> None:
    with RunFolder.open(str(tmp_path / "run")):
        pass
    pretend(tmp_path / "run", 1, ended=False, started=time.time() - 1e6)
    with RunFolder.open(str(tmp_path / "run")) as folder:
        assert folder.attempt == 2


def test_a_silent_owner_on_another_machine_is_replaced_after_the_expiry_and_is_fenced(
    tmp_path: Path, clock: FakeClock
) -> None:
    stalled = RunFolder.open(str(tmp_path / "run"), beat_s=3600.0)
    with stalled:
        pretend(tmp_path / "run", 1, machine="elsewhere", host="elsewhere")
        with RunFolder.open(str(tmp_path / "run")) as folder:
            assert EXPIRY_S <= clock.slept_s <= EXPIRY_S + BEAT_S
            assert folder.attempt == 2
            folder.check()
            with pytest.raises(RunFolderError, match=r"attempt 1 has lost .* attempt 2 took it over"):
                stalled.check()
    assert json.loads(attempt_file(tmp_path / "run", 1).read_text())["ended"] is False
    with pytest.raises(RunFolderError):
        stalled.check()


def test_a_living_owner_on_another_machine_is_noticed_by_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with RunFolder.open(str(run), beat_s=3600.0):
        pretend(run, 1, machine="elsewhere")
        clock = FakeClock(lambda: pretend(run, 1, machine="elsewhere", beat=int(clock.slept_s // BEAT_S)))
        monkeypatch.setattr(leases, "time", clock)
        with pytest.raises(RunFolderError, match="in use by attempt 1"):
            RunFolder.open(str(run))
        assert clock.slept_s == BEAT_S


def test_a_lease_of_yesterday_on_another_machine_is_not_waited_for(tmp_path: Path, clock: FakeClock) -> None:
    with RunFolder.open(str(tmp_path / "run")):
        pass
    pretend(tmp_path / "run", 1, ended=False, machine="elsewhere", time=time.time() - 86_400)
    with RunFolder.open(str(tmp_path / "run")) as folder:
        assert folder.attempt == 2
    assert clock.slept_s == 0


def take(path: str, barrier, results, all_answered) -> None:
    barrier.wait()
    try:
        with RunFolder.open(path):
            results.put("owner")
            all_answered.wait(patience(60))
    except RunFolderError:
        results.put("refused")


@pytest.mark.slow
def test_of_many_attempts_that_start_together_one_becomes_the_owner(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results, all_answered = context.Barrier(4), context.Queue(), context.Event()
    arguments = (str(tmp_path / "run"), barrier, results, all_answered)
    processes = [context.Process(target=take, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=patience(60)) for _ in processes)
    all_answered.set()
    for process in processes:
        process.join()
    assert outcomes == ["owner", "refused", "refused", "refused"]


def test_storage_that_writes_over_what_it_should_create_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fsspec's own did before 2024.12, and as servers do that ignore a conditional write."""
    files = fsspec.filesystem("memory")
    name = f"memory://{os.getpid()}/{time.monotonic_ns()}"
    with Lease(files, f"{name}/a") as lease:
        assert lease.number == 1
    exclusive = files.pipe_file
    monkeypatch.setattr(files, "pipe_file", lambda path, value, mode="overwrite": exclusive(path, value))
    with pytest.raises(LeaseError, match="two jobs could own one run") as error:
        Lease(files, f"{name}/b")
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be used") as error:
        RunFolder.open(str(tmp_path / "file" / "run"))
    assert "\n" not in str(error.value)


def test_an_unknown_protocol_is_one_clear_line() -> None:
    with pytest.raises(RunFolderError, match="nowhere"):
        RunFolder.open("nowhere://bucket/run")


def test_a_run_behind_a_url_goes_on_from_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path / 'storage' / 'run'}"
    for machine in ("first", "second"):
        (tmp_path / machine).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    with RunFolder.open(url) as folder:
        make_checkpoint(folder.path, 100)
        (folder.path / "metrics.jsonl").write_text("{}\n")
        folder.publish()
    monkeypatch.chdir(tmp_path / "second")
    with RunFolder.open(url) as folder:
        assert folder.attempt == 2
        assert [path.name for path in available(folder.path)] == [f"{100:012d}"]
        assert (folder.path / "metrics.jsonl").read_text() == "{}\n"
        assert (available(folder.path)[0] / "learner.safetensors").read_text() == "weights"


def test_what_was_pruned_here_is_removed_there(tmp_path: Path) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    mirror = Mirror(fsspec.filesystem("file"), str(remote), local)
    make_checkpoint(local, 100)
    mirror.publish()
    make_checkpoint(local, 200)
    for path in (local / FOLDER / f"{100:012d}").iterdir():
        path.unlink()
    mirror.publish()
    assert [path.name for path in available(remote)] == [f"{200:012d}"]


def test_a_checkpoint_that_was_copied_half_does_not_count(tmp_path: Path) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    make_checkpoint(remote, 100)
    make_checkpoint(remote, 200)
    (remote / FOLDER / f"{200:012d}" / MANIFEST).unlink()
    mirror = Mirror(fsspec.filesystem("file"), str(remote), local)
    mirror.fetch()
    assert [path.name for path in available(local)] == [f"{100:012d}"]


def test_what_was_written_again_in_the_place_of_a_damaged_checkpoint_is_copied_too(tmp_path: Path) -> None:
    """A run that repeats itself reaches the same step, and so the same name."""
    local, remote = tmp_path / "local", tmp_path / "remote"
    make_checkpoint(remote, 100, "damaged")
    (remote / FOLDER / f"{100:012d}" / MANIFEST).write_text("another")
    make_checkpoint(local, 100, "whole")
    Mirror(fsspec.filesystem("file"), str(remote), local).publish()
    there = available(remote)[0] / "learner.safetensors"
    assert there.read_text() == "whole"
    assert (available(remote)[0] / MANIFEST).read_bytes() == (available(local)[0] / MANIFEST).read_bytes()
    there.write_text("the same, as far as is known")
    Mirror(fsspec.filesystem("file"), str(remote), local).publish()
    assert there.read_text() == "the same, as far as is known", "it was copied again"


def test_a_machine_that_is_ahead_of_its_storage_keeps_what_it_has(tmp_path: Path) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    make_checkpoint(remote, 100, "old")
    make_checkpoint(local, 200, "new")
    (remote / "metrics.jsonl").write_text("old")
    (local / "metrics.jsonl").write_text("new")
    Mirror(fsspec.filesystem("file"), str(remote), local).fetch()
    assert (local / "metrics.jsonl").read_text() == "new"


def test_the_name_of_a_copy_holds_no_secret_and_is_one_per_place() -> None:
    from conf.places import Interpolated

    assert copy_name("s3://bucket/runs/a") == "s3-bucket-runs-a"
    places = ["s3://k:hunter22@host/a", "s3://k:hunter23@host/a", Interpolated("s3://bucket1/a", "s3://${oc.env:B}/a")]
    names = [copy_name(place) for place in places]
    assert len(set(names)) == 3
    assert not any(secret in " ".join(names) for secret in ("hunter", "bucket1"))
