"""Our side of one engine: starts its process, asks it for one thing at a time, and ends it.

A process is a new interpreter (never a fork: the engine does not survive one, and neither do torch's threads) that imports only
what an engine needs, not the program that started it. It ends when our end of the socket goes away, and at once when the thread
that started it does: an environment belongs to the thread that resets it.
"""

import contextlib
import mmap
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from envs.dmlab.cache import CacheCounts
from envs.dmlab.engine import DONE, REFUSED, RESET, STEP, UNUSABLE, EngineOptions, number
from envs.dmlab.module import has_zip

LAST_LINES, LAST_CHARACTERS = 5, 600
"""Of an engine's log, for the message that says why it ended."""


class EngineDied(RuntimeError):
    """The process ended. The message names its level, and has the last lines that it wrote."""


class EngineRefused(RuntimeError):
    """The engine cannot be opened like this: an unknown level or setting."""


class ModuleUnusable(RuntimeError):
    """``deepmind_lab`` cannot be imported. The message says what is missing."""


class EngineProcess:
    """
    Args:
        level: number of its level, for the supervisor.
        folder: where it may leave files; deleted with it.
    """

    def __init__(
        self, options: EngineOptions, level: int, folder: Path, step_limit_s: float, reset_limit_s: float
    ) -> None:
        self.level = level
        self._level_name = options.level
        self.deadline: float | None = None
        """``time.monotonic()`` at which an answer is late; ``None`` while nothing is asked."""
        self._limits = {RESET: reset_limit_s, STEP: step_limit_s}
        self._folder = Path(tempfile.mkdtemp(prefix="engine-", dir=folder))
        memory_fd = _anonymous_memory(options.memory_type.itemsize, self._folder)
        self._socket, theirs = socket.socketpair()
        # By the system and not by Python, whose time-outs cost a call more at every answer.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _time_value(step_limit_s))
        with theirs, (self._folder / "engine.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *("-c", "from envs.dmlab.engine import main; main()"),
                    *(str(theirs.fileno()), str(memory_fd), str(self._folder), str(os.getpid())),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), memory_fd),
                env=os.environ
                | {
                    "TMPDIR": str(self._folder),
                    "PYTHONPATH": os.pathsep.join(_import_path()),
                    "OPENBLAS_NUM_THREADS": "1",  # numpy would start one per core in every engine
                },
            )
        memory = np.ndarray((), options.memory_type, mmap.mmap(memory_fd, options.memory_type.itemsize))
        os.close(memory_fd)
        self.frame: np.ndarray = memory["frame"]
        self.words: np.ndarray = memory["words"]
        self._memory = memory
        self._action: np.ndarray = memory["action"]
        self._status, self._reward = number(memory, "status"), number(memory, "reward")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(options.to_json().encode())

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def busy(self) -> bool:
        return self.deadline is not None

    @property
    def status(self) -> int:
        return self._status[0]

    @property
    def reward(self) -> float:
        return self._reward[0]

    def reset(self, seed: int) -> None:
        """Asks for a new episode; ``frame`` is its first picture once it is no longer ``busy``."""
        self._memory["seed"] = seed
        self._ask(RESET)

    def step(self, action: np.ndarray) -> None:
        """Asks for a step: ``status``, ``reward`` and ``frame`` (if it goes on) are those of after it once it is no longer ``busy``."""
        self._action[...] = action
        self._ask(STEP)

    def _ask(self, request: bytes) -> None:
        assert self.deadline is None, "one request at a time"
        self.deadline = time.monotonic() + self._limits[request]
        try:
            self._socket.send(request)
        except OSError:  # it has ended: receive will say so
            return

    def receive(self) -> bool:
        """Waits for the answer, or for the end of the process, as long as a step may take. Returns whether there is one.

        Raises:
            ModuleUnusable, EngineRefused: if the engine cannot be opened.
            EngineDied: if there will be no answer any more.
        """
        try:
            answer = self._socket.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            answer = b""
        if answer in (REFUSED, UNUSABLE):
            reason = self._memory["message"].item().decode(errors="replace")
            raise EngineRefused(reason) if answer == REFUSED else ModuleUnusable(reason)
        if answer != DONE:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            raise EngineDied(
                f"the engine of {self._level_name} ended with status {self._process.poll()}: {self._last_words()}"
            )
        self.deadline = None
        return True

    @property
    def cache_counts(self) -> CacheCounts:
        """Of its level cache so far."""
        return CacheCounts(*self._memory["cache"].tolist())

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Ends the process at once, whatever it is doing. Safe to call twice."""
        self._socket.close()
        self._process.kill()
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # a process inside a broken driver stays until the driver lets go
            self._process.wait(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _last_words(self) -> str:
        """More than a line: C's ``perror``, for one, leaves the cause in the line before the last."""
        words = "it left no message"
        with contextlib.suppress(OSError):
            lines = (self._folder / "engine.log").read_text(errors="replace").splitlines()
            said = [line.strip() for line in lines if line.strip()][-LAST_LINES:]
            words = " / ".join(said)[-LAST_CHARACTERS:] or words
        return (
            words if has_zip() else f"{words} (levels that build maps need the program zip, which is not on the PATH)"
        )


def _time_value(seconds: float) -> bytes:
    """C's ``struct timeval``; all zeros would mean no limit."""
    return struct.pack("ll", *divmod(max(1, round(seconds * 1e6)), 10**6))


def _import_path() -> list[str]:
    return [path or str(Path.cwd()) for path in sys.path]


def _anonymous_memory(size_bytes: int, folder: Path) -> int:
    """Memory without a name, gone with its last user, and not counted against ``/dev/shm``, which is small in containers."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("dmlab-engine")
    else:
        handle, name = tempfile.mkstemp(dir=folder)
        os.unlink(name)
    os.ftruncate(handle, size_bytes)
    return handle
