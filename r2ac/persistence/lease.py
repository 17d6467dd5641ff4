"""Fencing: at most one attempt of a job owns a run folder, and an attempt that lost it finds out before it writes.

    RUN/attempts/000001.json     {"host", "pid", "started", "beat", "time", "ended"}
    RUN/attempts/000002.json     the highest number owns the folder

An attempt begins by creating the next number, which the file system lets only one process do, and renews its file every few seconds.
A later attempt may begin when the owner has ended, is known to be dead, or has not renewed for ``EXPIRY_S``. The owner of a lower
number is fenced: its next ``check`` raises. No clocks of different machines are compared, except to recognise a lease that is very old.
"""

import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from fsspec.implementations.local import LocalFileSystem

FOLDER = "attempts"
BEAT_S = 5.0
EXPIRY_S = 30.0
CLOCK_ERROR_S = 600.0
"""Clocks of two machines are trusted no further."""
START_TIME_ERROR_S = 2.0


class LeaseError(RuntimeError):
    """Another attempt owns the run folder, or has taken it over. One line for the user."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt tells others about itself."""

    host: str
    machine: str
    """Within it, process numbers mean the same: boot and process namespace."""
    pid: int
    started: float
    """Of the process; with ``pid`` it names one process for good."""
    beat: int = 0
    time: float = 0.0
    """When it was last renewed, by its own clock."""
    ended: bool = False


class Lease:
    """The ownership of a run folder on any fsspec file system. A context manager: leaving it ends the attempt."""

    def __init__(self, files: Any, root: str, *, beat_s: float = BEAT_S, expiry_s: float = EXPIRY_S) -> None:
        """Takes the lease.

        Raises:
            LeaseError: if a living attempt owns the folder.
            OSError: if the folder cannot be written.
        """
        self._files, self._folder, self._root = files, f"{root}/{FOLDER}", root
        self._beat_s, self._expiry_s = beat_s, expiry_s
        self._lost_to: int | None = None
        self._stopping = threading.Event()
        files.makedirs(self._folder, exist_ok=True)
        self.number = self._begin()
        self._thread = threading.Thread(target=self._renew, name="run folder lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Call it before anything is written that another attempt would go on from.

        Raises:
            LeaseError: if another attempt has taken the folder over.
        """
        newest = self._newest_number()
        if newest > self.number:
            self._lost_to = newest
        if self._lost_to is not None:
            raise LeaseError(
                f"attempt {self.number} has lost {self._root}: attempt {self._lost_to} took it over while this process "
                f"did not answer for {self._expiry_s:g} s; stop one of the two jobs"
            )

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if self._lost_to is None:
            try:
                self._write(self.number, replace(self._attempt, ended=True, time=time.time()))
            except OSError:
                if error is None:
                    raise

    def _begin(self) -> int:
        """Creates the next attempt's file; whoever creates a number first has it."""
        while True:
            number = self._newest_number()
            if number:
                self._await_end_of(number)
            self._attempt = Attempt(
                socket.gethostname(), _machine(), os.getpid(), psutil.Process().create_time(), time=time.time()
            )
            try:
                self._create(number + 1)
            except FileExistsError:
                continue  # another was faster; it is the one to wait for now
            return number + 1

    def _await_end_of(self, number: int) -> None:
        """Returns when the attempt is over; raises as soon as it shows a sign of life."""
        first = seen = self._read(number)
        deadline = time.monotonic() + self._expiry_s
        while True:
            if seen is not None and _over(seen, self._expiry_s):
                return
            if seen != first or (seen is not None and _runs_here(seen)):
                owner = seen or first
                who = f"process {owner.pid} on {owner.host}" if owner else "another process"
                raise LeaseError(
                    f"{self._root} is in use by attempt {number} ({who}): stop that job first, or choose another run_dir or name"
                )
            if time.monotonic() >= deadline:
                return
            time.sleep(self._beat_s / 2)
            seen = self._read(number)

    def _renew(self) -> None:
        """One write per beat. Whether the folder is lost is looked up where it matters: before something is written into it."""
        while not self._stopping.wait(self._beat_s):
            self._attempt = replace(self._attempt, beat=self._attempt.beat + 1, time=time.time())
            try:
                self._write(self.number, self._attempt)
            except OSError:
                continue  # storage that is away for a moment: the lease lasts for several beats

    def _newest_number(self) -> int:
        self._files.invalidate_cache()
        names = [Path(str(path)) for path in self._files.ls(self._folder, detail=False)]
        return max((int(name.stem) for name in names if name.stem.isdigit()), default=0)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:06d}.json"

    def _create(self, number: int) -> None:
        """Raises ``FileExistsError`` if another attempt has this number. Object stores do it with a conditional write."""
        if isinstance(self._files, LocalFileSystem):  # whose own "create" looks first and writes then
            with open(self._path(number), "xb", buffering=0) as file:
                try:
                    file.write(_encode(self._attempt))
                except OSError:  # an empty one would be waited for by whoever comes next
                    os.unlink(file.name)
                    raise
        else:
            self._files.pipe_file(self._path(number), _encode(self._attempt), mode="create")
            self._require_exclusive(self._path(number))

    def _require_exclusive(self, path: str) -> None:
        """Storage that writes over what it should create lets two attempts own one folder, and only trying it tells.

        Raises:
            LeaseError: if it does.
        """
        try:
            self._files.pipe_file(path, _encode(self._attempt), mode="create")
        except FileExistsError:
            return
        raise LeaseError(
            f"the storage of {self._root} cannot refuse to create a file that is there, so two jobs could own one run: "
            f"take a newer version of its fsspec package, or other storage"
        )

    def _write(self, number: int, attempt: Attempt) -> None:
        if isinstance(self._files, LocalFileSystem):  # in its own place, for which a full disk has room
            descriptor = os.open(self._path(number), os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.ftruncate(descriptor, os.write(descriptor, _encode(attempt)))
            finally:
                os.close(descriptor)
        else:
            self._files.pipe_file(self._path(number), _encode(attempt))

    def _read(self, number: int) -> Attempt | None:
        """``None`` while its owner is in the middle of writing it."""
        try:
            attempt = Attempt(**json.loads(self._files.cat_file(self._path(number))))
        except (ValueError, TypeError, RecursionError):
            return None
        return attempt if _is_whole(attempt) else None


def _is_whole(attempt: Attempt) -> bool:
    """Whether everything in it is what this program writes: a file may hold anything."""
    numbers = (attempt.started, attempt.time)
    return (
        isinstance(attempt.host, str)
        and isinstance(attempt.machine, str)
        and type(attempt.pid) is int
        and 0 < attempt.pid < 2**31
        and all(type(number) in (int, float) and abs(number) < 2**53 for number in numbers)
    )


def _over(attempt: Attempt, expiry_s: float) -> bool:
    """Whether an attempt has certainly ended."""
    if attempt.ended:
        return True
    if attempt.machine == _machine():
        return not _runs_here(attempt)
    return time.time() - attempt.time > expiry_s + CLOCK_ERROR_S


def _runs_here(attempt: Attempt) -> bool:
    """Whether its process is alive on this machine."""
    if attempt.machine != _machine():
        return False
    try:
        process = psutil.Process(attempt.pid)
        same = abs(process.create_time() - attempt.started) < START_TIME_ERROR_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    """Differs between machines, boots and containers, whatever they call themselves."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _encode(attempt: Attempt) -> bytes:
    return (json.dumps(asdict(attempt)) + "\n").encode()
