"""A stand-in for the ``deepmind_lab`` module. It keeps the contract of the real one and checks that its callers do.

Tests put this folder on the path. ``FAKE_LAB`` in the environment is a JSON object that says how it behaves:

    steps        [shortest, longest] episode in steps of 4 frames; the longest is the time limit       default [12, 24]
    step_s       seconds of work (CPU time) per step, holding the interpreter's lock as the engine does           default 0
    reset_s      seconds that a reset sleeps                                                           default 0
    compile_s    seconds that building a map sleeps, on levels that have maps of text                  default 0
    dataset      "broken": the pictures of the levels that need some cannot be read
    faults       folder; a file ``exit-step``, ``hang-step``, ``raise-reset``, ... there happens once, to whoever takes it

A picture shows where it comes from: see ``label``.
"""

import hashlib
import json
import os
import struct
import sys
import time
import zipfile
import zlib
from functools import cache
from typing import Any

import numpy as np

LABEL = np.dtype([("seed", "<i8"), ("step", "<i8"), ("level", "<i8"), ("action", "<i4", (7,))])
"""The first bytes of every picture; seed -1 where the episode cannot be repeated."""
SETTINGS = {"width", "height", "fps", "logLevel", "allowHoldOutLevels", "mixerSeed", "datasetPath"}
OBSERVATIONS = {"RGB_INTERLEAVED", "INSTR", "FRAMES_REMAINING_AT_60", "DEBUG.POS.TRANS"}
LIMITS = ((-512, 512), (-512, 512), (-1, 1), (-1, 1), (0, 1), (0, 1), (0, 1))
FOLDER = "contributed/dmlab30/"
WITHOUT_FRAMES_LEFT = "nav_maze_static_01"
FAMILIES = ("rooms", "language", "lasertag", "natlab", "skymaze", "psychlab", "explore")
WITH_TEXT_MAPS = ("rooms_keys_doors", "lasertag", "skymaze", "explore")
WITH_DATASET = ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition")
WORDS = ("pick", "the", "red", "blue", "ball", "key", "near", "far")

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
        renderer: str = "software",
        level_cache: Any = None,
        temp_folder: str = "",
    ) -> None:
        _take_fault("open")
        if not isinstance(level, str) or not isinstance(renderer, str) or not isinstance(temp_folder, str):
            raise TypeError("level, renderer and temp_folder must be str")
        if type(observations) is not list:
            raise TypeError("'observations' must be a list")
        if type(config) is not dict or not all(type(x) is str for pair in config.items() for x in pair):
            raise TypeError("'config' must be a dict of str to str")
        if renderer not in ("software", "hardware"):
            raise RuntimeError(f"Unknown renderer {renderer}")
        for name in observations:
            missing = level == WITHOUT_FRAMES_LEFT and name == "FRAMES_REMAINING_AT_60"
            if name not in OBSERVATIONS or missing:
                raise ValueError(f"Unknown observation {name!r}.")
        unknown = set(config) - SETTINGS
        if unknown:
            raise RuntimeError(f"Invalid setting. {sorted(unknown)}")
        self._name = level.removeprefix(FOLDER)
        if level != WITHOUT_FRAMES_LEFT and not (level.startswith(FOLDER) and self._name.split("_")[0] in FAMILIES):
            raise RuntimeError(f"Level not found: {level}")
        if level.endswith("_test") and config.get("allowHoldOutLevels") != "true":
            raise RuntimeError(f"Hold-out levels are not allowed: {level}")
        self._number = zlib.crc32(self._name.encode())
        self._width, self._height = int(config.get("width", "320")), int(config.get("height", "240"))
        if self._width % 4 or self._height % 4:
            raise RuntimeError("width and height must be multiples of 4")
        self._observations = observations
        self._dataset = config.get("datasetPath", "")
        self._mixer = int(config.get("mixerSeed", "0"))
        self._cache = level_cache
        self._folder = temp_folder or os.environ.get("TMPDIR", "/tmp")
        self._behaviour = _behaviour()
        self._step_s = float(self._behaviour.get("step_s", 0))
        self._episodes = 0
        self._running = False
        self._closed = False

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        self._require_open()
        if seed is None or type(seed) is not int:
            raise TypeError(f"seed must be an int, got {type(seed).__name__}")
        if not 0 <= seed < 2**31 - 1:
            raise ValueError("seed out of range")
        _take_fault("reset")
        if self._name in WITH_DATASET and (not self._dataset or self._behaviour.get("dataset") == "broken"):
            raise RuntimeError("the pictures are broken")
        time.sleep(self._behaviour.get("reset_s", 0))
        self._seed = seed if self._episodes else -1
        mixed = [seed, self._mixer, *self._name.encode(), 0 if self._episodes else int.from_bytes(os.urandom(4), "big")]
        self._random = np.random.default_rng(mixed)
        self._episodes += 1
        self._compile(f"{self._name} {self._random.integers(2**62)}")
        shortest, longest = self._behaviour.get("steps", [12, 24])
        self._limit = 4 * longest
        self._end = 4 * int(self._random.integers(shortest, longest, endpoint=True))
        if self._random.random() < 0.3:
            self._end = self._limit
        self._frame = 0
        self._shown = self._random.integers(0, 256, (self._height, self._width, 3), np.uint8)
        self._say = " ".join(self._random.choice(WORDS, 4))
        self._action = [0] * 7
        self._running = True
        return True

    def _compile(self, map_text: str) -> None:
        if not self._name.startswith(WITH_TEXT_MAPS):
            return
        key, path = "maps/" + hashlib.md5(map_text.encode()).hexdigest(), os.path.join(self._folder, "map.pk3")
        if os.path.exists(path):
            os.unlink(path)
        if self._cache is not None and self._cache.fetch(key, path):
            try:
                with zipfile.ZipFile(path) as pack:
                    assert pack.read("map") == map_text.encode()
            except Exception:
                os._exit(1)  # the engine does not survive a wrong pack
            return
        time.sleep(self._behaviour.get("compile_s", 0))
        with zipfile.ZipFile(path, "w") as pack:
            pack.writestr("map", map_text)
        if self._cache is not None:
            self._cache.write(key, path)

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        until = time.thread_time() + self._step_s  # its own checks are part of the work that it stands for
        self._require_open()
        if not isinstance(action, np.ndarray) or action.dtype != np.intc or action.shape != (7,):
            raise ValueError("action must be an int32 array of 7")
        if not action.flags.c_contiguous:
            raise ValueError("action must be contiguous")
        if not self._running:
            raise RuntimeError("Environment is not running.")
        if not all(low <= value <= high for value, (low, high) in zip(action.tolist(), LIMITS, strict=True)):
            raise ValueError("action out of range")
        _take_fault("step")
        while time.thread_time() < until:
            pass
        frames = min(num_steps, self._end - self._frame)
        self._frame += frames
        self._running = self._frame < self._end
        self._action = action.tolist()
        return float(self._frame // 4) + 0.5 if self._frame % 8 == 0 else 0.0

    def observations(self) -> dict[str, Any]:
        self._require_open()
        if not self._running:
            raise RuntimeError("Environment is not running.")
        return {name: self._observation(name) for name in self._observations}

    def _observation(self, name: str) -> Any:
        if name == "INSTR":
            return self._say
        if name == "FRAMES_REMAINING_AT_60":
            return np.array([self._limit - self._frame], np.float64)
        picture: Any = self._shown.copy()
        _MARK.pack_into(picture, 0, self._seed, self._frame // 4, self._number, *self._action)
        return picture

    def is_running(self) -> bool:
        self._require_open()
        return self._running

    def num_steps(self) -> int:
        return self._frame

    def action_spec(self) -> list[dict[str, Any]]:
        names = ("LOOK_LEFT_RIGHT_PIXELS_PER_FRAME", "LOOK_DOWN_UP_PIXELS_PER_FRAME", "STRAFE_LEFT_RIGHT")
        limits = (
            *zip(names, (512, 512, 1), strict=True),
            ("MOVE_BACK_FORWARD", 1),
            ("FIRE", 1),
            ("JUMP", 1),
            ("CROUCH", 1),
        )
        return [
            {"name": name, "min": -limit if index < 4 else 0, "max": limit}
            for index, (name, limit) in enumerate(limits)
        ]

    def close(self) -> bool:
        self._closed = True
        return True

    def _require_open(self) -> None:
        if self._closed:
            os._exit(134)  # the engine aborts


@cache
def _behaviour() -> dict[str, Any]:
    """Read once: a step must not take longer here than the work that it was told to do."""
    return json.loads(os.environ.get("FAKE_LAB", "{}"))


def _take_fault(moment: str) -> None:
    """Does what a file in the faults folder says; taking the file away first makes it happen to one engine only."""
    folder = _behaviour().get("faults")
    if folder is None:
        return
    for fault in os.listdir(folder):
        what, _, when = fault.partition("-")
        if when.split(".")[0] != moment:
            continue
        try:
            os.unlink(os.path.join(folder, fault))
        except FileNotFoundError:
            continue
        if what == "exit":
            print("the stand-in was told to end", file=sys.stderr, flush=True)
            os._exit(3)
        if what == "hang":
            until = time.monotonic() + 3600
            while time.monotonic() < until:  # holding the lock
                pass
        raise RuntimeError("the stand-in was told to fail")
