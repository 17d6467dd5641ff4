"""One DeepMind Lab in a process of its own: the far side of ``envs.dmlab.process``. Nothing here is imported by anybody else.

    argument         file descriptors of a socket and of the shared memory, a folder for files, the supervisor's process
    standard input   ``EngineOptions`` as JSON
    socket           one byte per request (RESET, STEP) and one per answer (DONE; REFUSED: no such level; UNUSABLE: no such module);
                     what they are about is in the memory
    standard output  what the engine says, and the exception that ended it, if one did

The engine may end its process, hang while it holds the interpreter's lock, or throw; the supervisor sees to all three. If that is
gone itself, the operating system ends the process, whatever it is doing.
"""

import ctypes
import dataclasses
import json
import mmap
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from envs.dmlab.cache import CacheCounts, CacheOptions, LevelCache
from envs.dmlab.instructions import word_hashes
from envs.dmlab.module import why_not_imported

RESET, STEP = b"r", b"s"
DONE, REFUSED, UNUSABLE = b"d", b"u", b"m"
RUNNING, TERMINATED, TRUNCATED = 0, 1, 2

PICTURE, INSTRUCTION, FRAMES_LEFT = "RGB_INTERLEAVED", "INSTR", "FRAMES_REMAINING_AT_60"
HALF_A_FRAME = 0.5
"""The engine rounds seconds before it makes frames of them: of 4 frames left it says 4.000000000000199."""
THROW_AWAY_SEED = 0
PARENT_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of Linux's ``prctl``."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Everything that an engine is opened with; numbers and strings only, because it travels as JSON."""

    level: str
    """The engine's own name of it."""
    settings: dict[str, str]
    """Width, height and whatever else the engine calls its config."""
    width: int
    height: int
    renderer: str
    frame_skip: int
    instruction_length: int
    """0: the level's instruction is not read."""
    cache: CacheOptions | None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "EngineOptions":
        values = json.loads(text)
        values["cache"] = None if values["cache"] is None else CacheOptions(**values["cache"])
        return cls(**values)

    @property
    def memory_type(self) -> np.dtype:
        """What supervisor and engine share."""
        return np.dtype(
            [
                ("seed", "i8"),
                ("action", "i4", (7,)),
                ("status", "i4"),
                ("reward", "f8"),
                ("cache", "i8", (len(CacheCounts._fields),)),
                ("words", "i8", (self.instruction_length,)),
                ("message", "S400"),
                ("frame", "u1", (self.height, self.width, 3)),
            ],
            align=True,
        )


def number(memory: np.ndarray, name: str) -> "memoryview[Any]":
    """One number of the shared memory, as a sequence of one: much quicker to read and to write than through numpy."""
    field: Any = memory[name].reshape(1)
    return memoryview(field)


def out_of_time(frames_left: float, frame_skip: int) -> bool:
    """Whether an episode that ended in a step ended because of its time limit; ``frames_left`` as the engine told before the step."""
    return frames_left < frame_skip + HALF_A_FRAME


class Engine:
    """Raises whatever ``deepmind_lab`` raises for a level or a setting that it does not have."""

    def __init__(self, options: EngineOptions, memory: np.ndarray, folder: str) -> None:
        self._options = options
        # Looked up once: what is looked up at every step is looked up in cold caches, because other engines ran in between.
        self._seed, self._status, self._reward = (number(memory, name) for name in ("seed", "status", "reward"))
        self._action, self._words, self._frame = memory["action"], memory["words"], memory["frame"]
        counts: Any = memory["cache"]
        self._counts = memoryview(counts)
        self._cache = None if options.cache is None else LevelCache(options.cache)
        self._frames_left = float("inf")
        self._instructions: dict[str, np.ndarray] = {}
        try:
            self._lab = self._open(folder, FRAMES_LEFT)
            self._tells_frames_left = True
        except ValueError:
            # Levels of somebody's own may not offer it: their ends all count as ends of the task.
            self._lab = self._open(folder)
            self._tells_frames_left = False

    def throw_away(self) -> None:
        """Plays none of the first episode of an instance, which cannot be repeated from its seed; later ones can, on most levels."""
        self._lab.reset(seed=THROW_AWAY_SEED)

    def _open(self, folder: str, *more: str) -> Any:
        import deepmind_lab

        observations = [PICTURE, *more, *([INSTRUCTION] if self._options.instruction_length else [])]
        cache = {} if self._cache is None else {"level_cache": self._cache}
        return deepmind_lab.Lab(
            self._options.level,
            observations,
            config=self._options.settings,
            renderer=self._options.renderer,
            temp_folder=folder,
            **cache,
        )

    def reset(self) -> None:
        self._lab.reset(seed=self._seed[0])
        self._reward[0] = 0.0
        self._status[0] = RUNNING
        self._observe()

    def step(self) -> None:
        self._reward[0] = self._lab.step(self._action, num_steps=self._options.frame_skip)
        if self._lab.is_running():
            self._status[0] = RUNNING
            self._observe()
        else:
            self._status[0] = TRUNCATED if out_of_time(self._frames_left, self._options.frame_skip) else TERMINATED
            self._count()

    def _observe(self) -> None:
        observations = self._lab.observations()
        self._frame[...] = observations[PICTURE]
        if self._tells_frames_left:
            self._frames_left = float(observations[FRAMES_LEFT].item())
        if self._options.instruction_length:
            text = observations[INSTRUCTION]
            if text not in self._instructions:
                self._instructions[text] = word_hashes(text, self._options.instruction_length)
            self._words[...] = self._instructions[text]
        self._count()

    def _count(self) -> None:
        if self._cache is not None:
            for index, count in enumerate(self._cache.counts):
                self._counts[index] = count


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    options, folder = EngineOptions.from_json(sys.stdin.read()), sys.argv[3]
    memory = np.ndarray((), options.memory_type, mmap.mmap(int(sys.argv[2]), options.memory_type.itemsize))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would break the engine's map compiler
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then closes us
    end_with(int(sys.argv[4]))
    try:
        import deepmind_lab  # noqa: F401 - to tell a module that cannot be used from a level that cannot be opened
    except ImportError as error:
        refuse(connection, memory, UNUSABLE, why_not_imported(error))
    try:
        engine = Engine(options, memory, folder)
    except Exception as error:
        refuse(connection, memory, REFUSED, str(error))
    try:
        engine.throw_away()
        calls = {RESET: engine.reset, STEP: engine.step}
        while request := connection.recv(1):  # nothing comes once the supervisor has closed its end
            calls[request]()
            connection.send(DONE)
    except Exception as error:
        # In one line, after what the engine has said itself: that is often what explains it.
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


def refuse(connection: socket.socket, memory: np.ndarray, answer: bytes, reason: str) -> NoReturn:
    memory["message"] = " ".join(reason.split()).encode()[:400]
    connection.send(answer)
    sys.exit(1)


def end_with(process: int) -> None:
    """Has this process killed when its parent ends, even inside a call that never returns. Linux only, as the engine is."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != process:  # it was quicker
        sys.exit()
