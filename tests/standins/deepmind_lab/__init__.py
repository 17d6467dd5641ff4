"""A stand-in for the ``deepmind_lab`` module: no stricter and no laxer than what was seen of the real one.

Tests put the folder above on the path; ``behaviour.py`` says what it can be told to do. ``tests/envs/test_dmlab_contract.py`` asks
the stand-in and, where it is installed, the real module the same questions. It has fewer observations and settings than the engine.

A picture shows where it comes from: see ``label``.
"""

import ctypes
import hashlib
import os
import shutil
import signal
import struct
import tempfile
import time
import zipfile
import zlib
from typing import Any, NoReturn

import numpy as np

from deepmind_lab.behaviour import behaviour, map_not_found, take_fault
from deepmind_lab.levels import (
    FOLDER,
    KNOWN,
    MAP_AT_OPENING,
    MAP_AT_RESET,
    MAP_IN_A_STEP,
    NOT_REPEATED_FROM,
    UNDECORATED,
    WITH_DATASET,
)

LABEL = np.dtype([("seed", "<i8"), ("step", "<i8"), ("level", "<i8"), ("action", "<i4", (7,))])
"""The first bytes of every picture; seed -1 where the episode cannot be repeated."""
SETTINGS = {"width", "height", "fps", "logLevel", "allowHoldOutLevels", "mixerSeed", "datasetPath"}
VECTORS = {"FRAMES_REMAINING_AT_60": 1, "DEBUG.POS.TRANS": 3, "VEL.TRANS": 3, "VEL.ROT": 3}
ACTIONS = (
    *(("LOOK_LEFT_RIGHT_PIXELS_PER_FRAME", 512), ("LOOK_DOWN_UP_PIXELS_PER_FRAME", 512)),
    *(("STRAFE_LEFT_RIGHT", 1), ("MOVE_BACK_FORWARD", 1), ("FIRE", 1), ("JUMP", 1), ("CROUCH", 1)),
)
WORDS = ("pick", "the", "red", "blue", "ball", "key", "near", "far")
FRAME_MS = 16
MS_PER_SECOND = 0.96 * 1000.0
"""The engine counts whole milliseconds, of which it gives a second 960: so a 60th of one is 16."""

_MARK = struct.Struct("<qqq7i")
"""``LABEL``, as quick to write as a step of the engine needs it."""


def label(picture: np.ndarray) -> np.void:
    """Seed, step and level (its name's crc32) of the picture, and the action that led to it."""
    return np.frombuffer(picture.tobytes()[: LABEL.itemsize], LABEL)[0]


class Lab:
    def __init__(
        self,
        level: str,
        observations: list[str],
        config: dict[str, str] = {},  # noqa: B006 - as the real one
        renderer: str = "",
        level_cache: Any = None,
        temp_folder: str = "",
    ) -> None:
        self._behaviour = behaviour()
        self._faults = self._behaviour.get("faults")
        self._state = "closed"
        take_fault(self._faults, "open")
        for text in (level, renderer, temp_folder):
            if not isinstance(text, str):
                raise TypeError(f"must be str, not {type(text).__name__}")
        if not isinstance(observations, list) or not isinstance(config, dict):
            raise TypeError("observations must be list, config must be dict")
        if renderer not in ("", "software", "hardware"):
            raise RuntimeError(f'Failed to set renderer must be "hardware" or "software" actual "{renderer}"!')
        self._apply(config)
        self._name = level.removeprefix(FOLDER)
        if level not in KNOWN:
            raise RuntimeError(f'Failed to init environment - "Level not found: {level}"')
        if level.endswith("_test") and level != UNDECORATED and config.get("allowHoldOutLevels") != "true":
            raise RuntimeError('Failed to init environment - "Hold-out levels are not allowed"')
        self._number = zlib.crc32(self._name.encode())
        self._cache = level_cache
        self._folder = temp_folder or tempfile.mkdtemp(prefix="dmlab_temp_folder_")
        os.makedirs(self._folder, exist_ok=True)
        self._step_s = float(self._behaviour.get("step_s", 0))
        self._owner = os.getpid()
        self._episodes = self._num_steps = 0
        if self._name.startswith(MAP_AT_OPENING):
            self._compile(self._name)
        offered = [spec["name"] for spec in self._specs()]
        for name in observations:
            if not isinstance(name, str):
                raise TypeError("bad argument type for built-in operation")
            if name not in offered:
                raise ValueError(f"Unknown observation '{name}'.")
        self._observations = observations
        self._state = "opened"

    def _apply(self, config: dict[str, str]) -> None:
        values = {"width": 320, "height": 240, "mixerSeed": 0}
        for key, value in config.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError("bad argument type for built-in operation")
            if key in values:
                try:
                    values[key] = int(value, 0)
                except ValueError:
                    raise RuntimeError(f"Failed to apply setting '{key} = {value}' - \"Invalid int setting\"") from None
            elif key not in SETTINGS:
                raise RuntimeError(f"Failed to init environment - \"Invalid setting '{key}'\"")
        self._width, self._height, self._mixer = values.values()
        if self._width % 4 or self._height % 4 or min(self._width, self._height) < 4 or not 0 <= self._mixer < 2**32:
            raise RuntimeError("Failed to apply setting - \"'width' must be a positive multiple of 4\"")
        self._dataset = config.get("datasetPath", "")

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        if self._state == "closed":
            _end()
        if not isinstance(episode, int):
            raise TypeError("an integer is required")
        if seed is not None and not isinstance(seed, int):
            raise ValueError(f"'seed' must be int or None, was '{type(seed).__name__}'.")
        while os.getpid() != self._owner:  # a fork
            time.sleep(1)
        if self._state == "failed":
            raise RuntimeError("Failed to start environment")
        try:
            self._begin(int.from_bytes(os.urandom(4), "big") if seed is None else seed)
        except Exception:
            self._state = "failed"
            raise
        self._state = "running"
        return True

    def _begin(self, seed: int) -> None:
        take_fault(self._faults, "reset")
        if self._name in WITH_DATASET and (not self._dataset or self._behaviour.get("dataset") == "broken"):
            raise RuntimeError("Failed to start environment - the pictures are broken")
        time.sleep(self._behaviour.get("reset_s", 0))
        seed &= 2**31 - 1  # it becomes C's int, and negative ones are moved up by 2**31
        self._seed = seed if self._episodes else -1
        mixed = [seed, self._mixer, *self._name.encode(), 0 if self._episodes else int.from_bytes(os.urandom(4), "big")]
        self._random = np.random.default_rng(mixed)
        self._episodes += 1
        if self._name.startswith(MAP_AT_RESET):
            self._compile(f"{self._name} {self._random.integers(2**62)}")
        shortest, longest = self._behaviour.get("steps", [12, 24])
        self._length_s = 4 * longest / 60
        self._end = 4 * int(self._random.integers(shortest, longest, endpoint=True))
        if self._random.random() < 0.3:
            self._end = 4 * longest
        self._frame = self._num_steps = 0
        if self._name in self._behaviour.get("seconds", {}):
            self._length_s = self._behaviour["seconds"][self._name]
            self._end = round(60 * self._length_s) + 1
            self._frame = max(0, self._end - 1 - self._behaviour.get("begin_left", self._end))
        self._left_s = self._length_s - self._frame * FRAME_MS / MS_PER_SECOND
        self._position = np.zeros(3)
        self._shown = self._random.integers(0, 256, (self._height, self._width, 3), np.uint8)
        self._say = " ".join(self._random.choice(WORDS, 4)) if self._name.startswith("language") else ""
        self._action = [0] * 7

    def _compile(self, map_text: str) -> None:
        key, path = "maps/" + hashlib.md5(map_text.encode()).hexdigest(), os.path.join(self._folder, "map.pk3")
        # What lies at the path from the map before is still there.
        if self._cache is not None and self._cache.fetch(key, path):
            try:
                with zipfile.ZipFile(path) as pack:
                    assert pack.read("map") == map_text.encode()
            except Exception:
                map_not_found(key)
            return
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            _end()
        if shutil.which("zip") is None:
            raise RuntimeError("Failed to start environment - \"[C]: in function 'makeMap' stack traceback\"")
        time.sleep(self._behaviour.get("compile_s", 0))
        with zipfile.ZipFile(path, "w") as pack:
            pack.writestr("map", map_text)
        if self._cache is not None:
            self._cache.write(key, path)

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        until = time.thread_time() + self._step_s  # its own checks are part of the work that it stands for
        if not isinstance(action, np.ndarray) or not isinstance(num_steps, int):
            raise TypeError("action must be numpy.ndarray, num_steps an int")
        if self._state != "running":
            raise RuntimeError("Environment in wrong status to advance.")
        if action.shape != (7,):
            raise ValueError("action must have shape (7)")
        if action.dtype != np.intc:
            raise ValueError("action must have dtype np.intc")
        take_fault(self._faults, "step")
        while time.thread_time() < until:
            pass
        self._action = action.tolist() if action.flags.c_contiguous else _seven_from(action.ctypes.data)
        if self._name.startswith(MAP_IN_A_STEP) and self._frame < 8 <= self._frame + num_steps:
            self._compile(f"{self._name} {self._random.integers(2**62)}")
        self._num_steps += num_steps
        for _ in range(num_steps):
            self._frame += 1
            self._left_s = self._length_s - self._frame * FRAME_MS / MS_PER_SECOND
            self._position[:2] += self._action[3], self._action[2]
            if self._frame >= self._end or self._left_s <= 0:
                self._state = "over"
                break
        return float(self._frame // 4) + 0.5 if self._frame % 8 == 0 else 0.0

    def observations(self) -> dict[str, Any]:
        if self._state != "running":
            raise RuntimeError("Environment in wrong status for call to observations()")
        return {name: self._observation(name) for name in self._observations}

    def _observation(self, name: str) -> Any:
        if name == "INSTR":
            return self._say
        if name == "FRAMES_REMAINING_AT_60":
            return np.array([self._left_s * 60])
        if name == "DEBUG.POS.TRANS":
            return self._position.copy()
        if name in VECTORS:
            return np.zeros(VECTORS[name])
        picture: Any = self._shown.copy()
        _MARK.pack_into(picture, 0, self._seed, self._frame // 4, self._number, *self._action)
        if self._frame // 4 >= NOT_REPEATED_FROM.get(self._name, 2**62):
            picture[-1, -4:] = np.frombuffer(os.urandom(12), np.uint8).reshape(4, 3)
        return picture

    def is_running(self) -> bool:
        return self._state == "running"

    def num_steps(self) -> int:
        return self._num_steps

    def events(self) -> list[Any]:
        if self._state not in ("running", "over"):
            raise RuntimeError("Environment in wrong status for call to events()")
        return []

    def action_spec(self) -> list[dict[str, Any]]:
        if self._state == "closed":
            _end()
        return [
            {"name": name, "min": -limit if index < 4 else 0, "max": limit}
            for index, (name, limit) in enumerate(ACTIONS)
        ]

    def observation_spec(self) -> list[dict[str, Any]]:
        if self._state == "closed":
            _end()
        return self._specs()

    def _specs(self) -> list[dict[str, Any]]:
        specs: list[dict[str, Any]] = [
            {"name": "RGB_INTERLEAVED", "shape": (self._height, self._width, 3), "dtype": np.uint8}
        ]
        if self._name == UNDECORATED:
            return specs
        specs.append({"name": "INSTR", "shape": (), "dtype": str})
        return specs + [{"name": name, "shape": (size,), "dtype": np.float64} for name, size in VECTORS.items()]

    def close(self) -> bool:
        was_open, self._state = self._state != "closed", "closed"
        return was_open


def _seven_from(address: int) -> list[int]:
    """The engine reads seven numbers in a row, whatever the array's strides are."""
    return list((ctypes.c_int * 7).from_address(address))


def _end() -> NoReturn:
    """The engine aborts."""
    os._exit(134)
