"""A stand-in for DeepMind Lab's module that keeps its contract and checks that its callers do.

It takes the real module's place where a test puts this folder on the path. What it shows says which episode and step it is:
bytes 0-3 of the first pixels are the seed of the episode, bytes 4-7 the steps taken, the rest is noise that follows from both.
The reward of a step is ``(seed % 1000) + step / 1024`` of the step that was left.

Like the real one: the first episode of an instance does not follow from its seed; there is no observation after the end; an
exception in reset is fatal for the instance; a damaged pack in the level cache, use after close or a second Lab ends the
process. Settings of its own, for tests: ``standin_reset_s`` and ``standin_step_ms`` (busy), and ``standin_fault``:
``KIND@N`` at the N-th call (crash, hang, raise at a step; reset_crash, reset_hang, reset_raise at a reset), which happens once
if ``standin_once`` names a file that does not exist yet.
"""

import hashlib
import os
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

IS_STANDIN = True

_FOLDER = "contributed/dmlab30/"
_SECONDS = {
    "rooms_collect_good_objects_train": 60,
    "rooms_collect_good_objects_test": 60,
    "rooms_exploit_deferred_effects_train": 60,
    "rooms_exploit_deferred_effects_test": 60,
    "rooms_select_nonmatching_object": 12,
    "rooms_watermaze": 120,
    "rooms_keys_doors_puzzle": 60,
    "language_select_described_object": 60,
    "language_select_located_object": 120,
    "language_execute_random_task": 120,
    "language_answer_quantitative_question": 60,
    "lasertag_one_opponent_small": 240,
    "lasertag_three_opponents_small": 240,
    "lasertag_one_opponent_large": 240,
    "lasertag_three_opponents_large": 240,
    "natlab_fixed_large_map": 120,
    "natlab_varying_map_regrowth": 120,
    "natlab_varying_map_randomized": 120,
    "skymaze_irreversible_path_hard": 60,
    "skymaze_irreversible_path_varied": 60,
    "psychlab_arbitrary_visuomotor_mapping": 300,
    "psychlab_continuous_recognition": 300,
    "psychlab_sequential_comparison": 300,
    "psychlab_visual_search": 150,
    "explore_object_locations_small": 90,
    "explore_object_locations_large": 120,
    "explore_obstructed_goals_small": 90,
    "explore_obstructed_goals_large": 120,
    "explore_goal_locations_small": 90,
    "explore_goal_locations_large": 120,
    "explore_object_rewards_few": 90,
    "explore_object_rewards_many": 120,
}
_LEVELS = {_FOLDER + name: seconds for name, seconds in _SECONDS.items()} | {"seekavoid_arena_01": 60}
_SETTINGS = {
    *("width", "height", "fps", "logLevel", "datasetPath", "allowHoldOutLevels", "mixerSeed", "episodeLengthSeconds"),
    *("standin_reset_s", "standin_step_ms", "standin_fault", "standin_once"),
}
_OBSERVATIONS = {"RGB_INTERLEAVED", "INSTR", "FRAMES_REMAINING_AT_60", "VEL.TRANS"}
_BUILDS_MAPS = ("keys_doors", "lasertag", "skymaze", "explore_")
_ENDS_EARLY = ("keys_doors", "skymaze")
_NEED_PICTURES = ("arbitrary_visuomotor_mapping", "continuous_recognition")

_open_labs: list["Lab"] = []


class Lab:
    def __init__(
        self,
        level: str,
        observations: list[str],
        config: dict[str, str] = {},  # noqa: B006 - the real one refuses None
        renderer: str = "software",
        level_cache: Any = None,
        temp_folder: str = "",
    ) -> None:
        if _open_labs:
            os._exit(70)
        if not isinstance(level, str) or not isinstance(renderer, str) or not isinstance(temp_folder, str):
            raise TypeError("level, renderer and temp_folder must be str")
        if not isinstance(observations, list) or not all(isinstance(name, str) for name in observations):
            raise TypeError("'observations' must be a list of str")
        if not isinstance(config, dict) or not all(isinstance(x, str) for pair in config.items() for x in pair):
            raise TypeError("'config' must be a dict of str to str")
        if renderer not in ("software", "hardware"):
            raise RuntimeError(f"Invalid renderer '{renderer}'")
        for name in observations:
            if name not in _OBSERVATIONS:
                raise ValueError(f"Unknown observation '{name}'.")
        for setting in config:
            if setting not in _SETTINGS:
                raise RuntimeError(f"Invalid setting '{setting}'")
        if level not in _LEVELS:
            raise RuntimeError(f"level not found: '{level}'")
        self._width, self._height = int(config.get("width", "320")), int(config.get("height", "240"))
        if self._width % 4 or self._height % 4:
            raise RuntimeError("width and height must be multiples of 4")
        if level.endswith("_test") and config.get("allowHoldOutLevels") != "true":
            raise RuntimeError(f"{level} is a hold-out level")
        if level.endswith(_NEED_PICTURES) and not Path(config.get("datasetPath", "/nowhere")).is_dir():
            raise RuntimeError("cannot read the dataset")
        if level_cache is not None and not (callable(level_cache.fetch) and callable(level_cache.write)):
            raise TypeError("'level_cache' must have fetch and write")
        self._level, self._config, self._cache, self._wanted = level, config, level_cache, observations
        self._mixer = int(config.get("mixerSeed", "0"))
        self._frames_per_episode = 60 * int(config.get("episodeLengthSeconds", str(_LEVELS[level])))
        self._resets = self._steps_ever = 0
        self._running = self._closed = self._broken = False
        _open_labs.append(self)

    def reset(self, episode: int = -1, seed: int | None = None) -> None:
        self._alive()
        if type(episode) is not int or not (seed is None or type(seed) is int):
            raise TypeError("'episode' and 'seed' must be int")
        if seed is not None and not 0 <= seed < 2**31 - 1:
            raise ValueError(f"seed {seed} out of range")
        self._resets += 1
        self._fault("reset_", self._resets)
        time.sleep(float(self._config.get("standin_reset_s", "0")))
        self._seed = int.from_bytes(os.urandom(3), "little") if seed is None or self._resets == 1 else seed
        random = np.random.default_rng([self._seed, self._mixer])
        if any(part in self._level for part in _BUILDS_MAPS):
            self._build_map(random.integers(2**31))
        self._noise = random.integers(0, 256, (self._height, self._width, 3), np.uint8)
        self._frames = self._steps = 0
        self._last_frame = self._frames_per_episode
        if any(part in self._level for part in _ENDS_EARLY) and random.random() < 0.5:
            self._last_frame = int(random.integers(4, max(5, self._frames_per_episode - 8)))
        self._running = True

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        self._alive()
        if not isinstance(action, np.ndarray) or action.dtype != np.intc or not action.flags.c_contiguous:
            raise ValueError("action must be a contiguous array of np.intc")
        if action.shape != (7,) or abs(action[:2]).max() > 512 or abs(action[2:]).max() > 1:
            raise ValueError(f"action {action} does not fit the action spec")
        if type(num_steps) is not int or num_steps < 1:
            raise ValueError("num_steps must be a positive int")
        if not self._running:
            raise RuntimeError("Environment in wrong status to advance.")
        self._steps_ever += 1
        self._fault("", self._steps_ever)
        until = time.perf_counter() + float(self._config.get("standin_step_ms", "0")) / 1000
        while time.perf_counter() < until:
            pass
        reward = self._seed % 1000 + self._steps / 1024
        self._steps += 1
        self._frames = min(self._frames + num_steps, self._last_frame)
        self._running = self._frames < self._last_frame
        return reward

    def is_running(self) -> bool:
        self._alive()
        return self._running

    def observations(self) -> dict[str, Any]:
        self._alive()
        if not self._running:
            raise RuntimeError("Environment in wrong status for call to observations()")
        picture = self._noise + np.uint8(self._steps % 251)
        label = np.array([self._seed, self._steps], "<u4").view(np.uint8)
        picture.reshape(-1)[: label.size] = label
        everything: dict[str, Any] = {
            "RGB_INTERLEAVED": picture,
            "INSTR": f"Pick the object {self._seed % 7}" if "language" in self._level else "",
            "FRAMES_REMAINING_AT_60": np.array([self._frames_per_episode - self._frames], np.float64),
            "VEL.TRANS": np.zeros(3),
        }
        return {name: everything[name] for name in self._wanted}

    def num_steps(self) -> int:
        self._alive()
        return self._frames

    def observation_spec(self) -> list[dict[str, Any]]:
        return [{"name": "RGB_INTERLEAVED", "shape": (self._height, self._width, 3), "dtype": np.uint8}]

    def action_spec(self) -> list[dict[str, Any]]:
        look = [{"name": f"LOOK_{i}", "min": -512, "max": 512} for i in range(2)]
        return look + [{"name": f"BUTTON_{i}", "min": -1 if i < 2 else 0, "max": 1} for i in range(5)]

    def close(self) -> None:
        self._alive()
        self._closed = True
        _open_labs.remove(self)

    def _alive(self) -> None:
        if self._closed or self._broken:
            os._exit(71)

    def _fault(self, prefix: str, count: int) -> None:
        kind, _, at = self._config.get("standin_fault", "").partition("@")
        if not kind.startswith(prefix) or (not prefix and kind.startswith("reset_")) or not at or count != int(at):
            return
        if once := self._config.get("standin_once"):
            try:
                os.close(os.open(once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        kind = kind.removeprefix("reset_")
        if kind == "crash":
            os.abort()
        if kind == "hang":
            time.sleep(3600)
        self._broken = True
        raise RuntimeError("the stand-in was told to raise")

    def _build_map(self, number: int) -> None:
        key = f"{self._level}_{hashlib.md5(str(number).encode()).hexdigest()}"
        with tempfile.TemporaryDirectory(prefix="dmlab_temp_folder_") as folder:
            path = os.path.join(folder, "level.pk3")
            if self._cache is None or self._cache.fetch(key, path) is not True:
                with zipfile.ZipFile(path, "w") as archive:
                    archive.writestr("maps/level.bsp", key * 50)
                if self._cache is not None:
                    self._cache.write(key, path)
                return
            try:
                with zipfile.ZipFile(path) as archive:
                    sound = archive.testzip() is None and archive.read("maps/level.bsp").decode() == key * 50
            except (OSError, zipfile.BadZipFile, KeyError):
                sound = False
            if not sound:
                os._exit(72)
