"""One DeepMind Lab in a process of its own: ``python -c "from envs.dmlab.engine import main; main()" LAUNCH``.

The engine may abort its process, hang in it, and holds the interpreter lock while it steps; so each has a fresh interpreter
(never a fork, which hangs once a Lab exists). Everything but the doorbell passes through shared memory:

    supervisor                          engine
      slot.seed, b"r"  ------------->     reset
                       <-------------     slot.frame, slot.instruction, b"."
      slot.action, b"s"  ----------->     step of ``action_repeat`` frames
                       <-------------     slot.reward, slot.outcome, slot.frame, b"."
                       <-------------     slot.message, b"x" (no such level or setting) or b"!" (any other failure); then it ends
      closes its end   ------------->     end of file: it ends
"""

import json
import mmap
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from envs.dmlab.cache import CacheConfig, open_cache
from envs.dmlab.instructions import MAX_WORDS, word_hashes

RESET, STEP = b"r", b"s"
DONE, REFUSED, FAILED = b".", b"x", b"!"

GOES_ON, ENDED, TIMED_OUT = 0, 1, 2
"""Outcomes of a step."""

MESSAGE_BYTES = 600


@dataclass(frozen=True, slots=True)
class Launch:
    """What an engine is started with, as JSON in its argument."""

    slot: int
    num_slots: int
    memory_fd: int
    doorbell_fd: int
    level: str
    """As the engine calls it."""
    settings: dict[str, str]
    height: int
    width: int
    action_repeat: int
    instruction: bool
    renderer: str
    cache: CacheConfig | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Launch":
        values = json.loads(text)
        cache = values.pop("cache")
        return Launch(**values, cache=None if cache is None else CacheConfig(**cache))


def slot_type(height: int, width: int) -> np.dtype[Any]:
    """One engine's part of the shared memory."""
    return np.dtype(
        [
            ("seed", np.int64),
            ("action", np.intc, (7,)),
            ("reward", np.float64),
            ("outcome", np.uint8),
            ("cache_hits", np.int64),
            ("cache_misses", np.int64),
            ("instruction", np.int64, (MAX_WORDS,)),
            ("message", f"S{MESSAGE_BYTES}"),
            ("frame", np.uint8, (height, width, 3)),
        ],
        align=True,
    )


def slots_in(memory: mmap.mmap, num_slots: int, height: int, width: int) -> np.ndarray:
    """Every engine's slot ``[num_slots]``, as a structured array over shared memory."""
    return np.ndarray((num_slots,), slot_type(height, width), memory)


class Engine:
    """A Lab that plays one level, and writes what it shows into its slot."""

    def __init__(self, launch: Launch, slot: np.void) -> None:
        import deepmind_lab

        observations = ["RGB_INTERLEAVED", "FRAMES_REMAINING_AT_60", *(["INSTR"] if launch.instruction else [])]
        options: dict[str, Any] = {"config": launch.settings, "renderer": launch.renderer}
        self._cache = None if launch.cache is None else open_cache(launch.cache)
        if self._cache is not None:
            options["level_cache"] = self._cache
        self._lab = deepmind_lab.Lab(launch.level, observations, **options)
        self._slot = slot
        self._launch = launch
        self._frames_left = 0.0
        # The first episode of a Lab does not follow from its seed; later ones do.
        self._lab.reset(seed=0)

    def reset(self) -> None:
        self._lab.reset(seed=int(self._slot["seed"]))
        self._slot["reward"], self._slot["outcome"] = 0.0, GOES_ON
        self._show()

    def step(self) -> None:
        """After the end there is no observation to show: the slot keeps the last one."""
        self._slot["reward"] = self._lab.step(self._slot["action"], num_steps=self._launch.action_repeat)
        if self._lab.is_running():
            self._slot["outcome"] = GOES_ON
            self._show()
        else:
            # The Lab does not say why an episode is over: a time-out is one that had no more frames than this step took.
            self._slot["outcome"] = TIMED_OUT if self._frames_left <= self._launch.action_repeat else ENDED
        self._count_cache()

    def _show(self) -> None:
        observations = self._lab.observations()
        self._slot["frame"][:] = observations["RGB_INTERLEAVED"]
        self._frames_left = float(np.asarray(observations["FRAMES_REMAINING_AT_60"]).flat[0])
        if self._launch.instruction:
            self._slot["instruction"][:] = word_hashes(observations["INSTR"])
        self._count_cache()

    def _count_cache(self) -> None:
        if self._cache is not None:
            self._slot["cache_hits"], self._slot["cache_misses"] = self._cache.hits, self._cache.misses


def serve(doorbell: socket.socket, slot: np.void, create: Callable[[], Engine]) -> None:
    """Answers until the supervisor closes its end, or a call fails: an instance that raised cannot be used again."""
    answer = REFUSED
    try:
        engine = create()
        answer = FAILED
        while request := doorbell.recv(1):
            if request == RESET:
                engine.reset()
            elif request == STEP:
                engine.step()
            doorbell.send(DONE)
    except (BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        message = f"{type(error).__name__}: {error}".replace("\n", " ")
        slot["message"] = message.encode()[:MESSAGE_BYTES]
        doorbell.send(answer)
        raise


def main() -> None:
    # Ignored children would break the engine's map compiler; an interrupt is the supervisor's business.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    launch = Launch.from_json(sys.argv[1])
    size = launch.num_slots * slot_type(launch.height, launch.width).itemsize
    memory = mmap.mmap(launch.memory_fd, size)
    slot = slots_in(memory, launch.num_slots, launch.height, launch.width)[launch.slot]
    with socket.socket(fileno=launch.doorbell_fd) as doorbell:
        serve(doorbell, slot, lambda: Engine(launch, slot))
