"""ProcGen: 16 games with generated levels, through procgen-mirror's C++ batch.

Of the two libraries that have wheels for present Pythons, this one brings all it needs; envpool's ProcGen wants the system's Qt 5.
Its metadata asks for numpy below 2 and the old gym, but only its gym registration needs them: importing the environment's module
without the package's ``__init__`` leaves them out, so nobody is held to an old numpy (see requirements-procgen.lock).

The library shows the next level at once when one ends (our habit) and drops the last picture: where an episode was cut off, the
last one that was seen takes its place. Cut off means that it lasted exactly as long as the game allows and was not won by its
last step; lost by its last step cannot be told apart from cut off.
"""

import difflib
import importlib
import importlib.util
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from conf.env_schema import EnvConfig, ProcgenConfig
from conf.knobs import ConfigError
from envs.base import Discrete, EnvSpec, MissingDependency, Timestep, UnknownEnvironment, VectorEnv, spawn_seeds
from envs.suite import EvaluationProtocol, Part, Suite

TIME_LIMITS: dict[str, int] = {
    "bigfish": 6000,
    "bossfight": 4000,
    "caveflyer": 1000,
    "chaser": 1000,
    "climber": 1000,
    "coinrun": 1000,
    "dodgeball": 1000,
    "fruitbot": 1000,
    "heist": 1000,
    "jumper": 1000,
    "leaper": 500,
    "maze": 500,
    "miner": 1000,
    "ninja": 1000,
    "plunder": 4000,
    "starpilot": 1000,
}
"""Steps after which a level is cut off, read from the games' own saved states; jumper's memory mode has 2000."""

MODES: dict[str, frozenset[str]] = {
    "easy": frozenset(TIME_LIMITS),
    "hard": frozenset(TIME_LIMITS),
    "extreme": frozenset({"chaser", "dodgeball", "leaper", "starpilot"}),
    "memory": frozenset({"caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"}),
    "exploration": frozenset({"coinrun", "caveflyer", "leaper", "jumper", "maze", "heist", "climber", "ninja"}),
}
"""Which games have which distribution mode; the library ends the process for any other pair."""

WHEELS_END = (3, 13)
"""The first Python that procgen-mirror has no wheel for."""

TESTS = (1000, 1200, 1400)
"""First levels of the paper's three test sets."""
TEST_LEVELS = 200

MAX_LEVEL = 2**31 - 1
"""Levels are numbered by the library's signed 32-bit integers; a range that overflows them would hold no level at all."""

ACTIONS = (
    *("left down", "left", "left up", "down", "nothing", "up", "right down", "right", "right up"),
    *("d", "a", "w", "s", "q", "e"),
)


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    """Raises ``UnknownEnvironment`` for an unknown game, mode or level range, ``MissingDependency`` without the library."""
    assert isinstance(config, ProcgenConfig)
    return ProcgenEnv(config, num_envs, seed)


def make_part(config: ProcgenConfig, num_envs: int, seed: int, part: Part) -> VectorEnv:
    """With threads of its own: without any, a game would be stepped by whoever should do something else meanwhile."""
    own_seed = spawn_seeds(seed, part.of)[part.number]
    return ProcgenEnv(replace(config, threads=max(1, config.threads)), num_envs, own_seed)


class ProcgenEnv(VectorEnv):
    """Colour images uint8 ``[B, 64, 64, 3]``; its state can be saved bit for bit."""

    def __init__(self, config: ProcgenConfig, num_envs: int, seed: int) -> None:
        _check(config)
        self.num_envs = num_envs
        self.time_limit = 2000 if (config.name, config.mode) == ("jumper", "memory") else TIME_LIMITS[config.name]
        # In exploration mode the game plays one level of the library's choice.
        levels = (
            {} if config.mode == "exploration" else {"num_levels": config.num_levels, "start_level": config.start_level}
        )
        self._identity = {"streams": num_envs, "game": config.name, "mode": config.mode, **levels}
        self._envs = _open(
            num=num_envs,
            env_name=config.name,
            **levels,
            distribution_mode=config.mode,
            rand_seed=seed,
            num_threads=config.threads,
        )
        self.spec = EnvSpec(
            name=f"procgen/{config.name}",
            observation_shape=(64, 64, 3),
            observation_dtype="uint8",
            layout="HWC",
            actions=Discrete(15),
            action_meanings=ACTIONS,
        )
        self._length = np.zeros(num_envs, np.int64)
        self._last = np.zeros((num_envs, 64, 64, 3), np.uint8)

    def reset(self) -> Timestep:
        _, observation, _ = self._envs.observe()
        self._last = observation["rgb"].copy()
        no = np.zeros(self.num_envs, bool)
        return Timestep(self._last, np.zeros(self.num_envs, np.float32), no, no, ~no, no)

    def step(self, actions: np.ndarray) -> Timestep:
        self.begin(actions)
        return self.finish()

    def begin(self, actions: np.ndarray) -> None:
        self._envs.act(actions.astype(np.int32))

    def finish(self) -> Timestep:
        reward, observation, first = self._envs.observe()
        first = np.array(first, bool)
        self._length += 1
        truncated = first & (self._length >= self.time_limit)
        if truncated.any():
            truncated &= [not info["prev_level_complete"] for info in self._envs.get_info()]
        self._length[first] = 0
        previous, self._last = self._last, observation["rgb"].copy()
        return Timestep(
            self._last,
            np.array(reward, np.float32),
            first & ~truncated,
            truncated,
            first,
            np.ones(self.num_envs, bool),
            final_observation=previous if truncated.any() else None,
        )

    def level_seeds(self) -> list[int]:
        """The level that each stream is in."""
        return [int(info["level_seed"]) for info in self._envs.get_info()]

    def get_state(self) -> dict[str, Any]:
        states = self._envs.callmethod("get_state")
        return {
            "identity": dict(self._identity),
            "games": {str(index): np.frombuffer(state, np.uint8).copy() for index, state in enumerate(states)},
            "length": self._length.copy(),
            "last": self._last.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ``ConfigError`` for another game's state, at which the library would end the process, or another level range's."""
        if state["identity"] != self._identity:
            raise ConfigError(
                f"the saved games are of {_listed(state['identity'])}, but this run has {_listed(self._identity)}: "
                "go on with the options of the saved run, or take another run_dir"
            )
        self._envs.callmethod("set_state", [state["games"][str(index)].tobytes() for index in range(self.num_envs)])
        self._length[:] = state["length"]
        self._last = np.array(state["last"])

    def render(self, index: int) -> np.ndarray:
        return self._last[index].repeat(4, axis=0).repeat(4, axis=1)

    def close(self) -> None:
        self._envs.close()


def _check(config: ProcgenConfig) -> None:
    if config.name not in TIME_LIMITS:
        close = difflib.get_close_matches(config.name, TIME_LIMITS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(TIME_LIMITS)}"
        raise UnknownEnvironment(f"unknown ProcGen game {config.name!r}: {hint}")
    if config.name not in MODES[config.mode]:
        modes = [mode for mode, games in MODES.items() if config.name in games]
        raise UnknownEnvironment(
            f"ProcGen's {config.name} has no mode {config.mode!r}: expected env.mode to be one of {', '.join(modes)}"
        )
    if config.mode == "exploration":
        return
    if config.num_levels == 0 and config.start_level > 0:
        raise UnknownEnvironment(
            f"env.num_levels=0 is all levels there are, so env.start_level={config.start_level} has no meaning: "
            "give the number of levels, or leave env.start_level out"
        )
    if config.start_level + config.num_levels > MAX_LEVEL:
        raise UnknownEnvironment(
            f"ProcGen has levels 0 to {MAX_LEVEL - 1}, but env.start_level={config.start_level} with "
            f"env.num_levels={config.num_levels} goes beyond"
        )


def _listed(identity: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in identity.items())


def _open(**options: Any) -> Any:
    library = _library()
    try:
        return library.ProcgenGym3Env(**options)
    except OSError as error:  # the system's loader: the wheel brings Qt, but not what Qt takes from every desktop
        raise MissingDependency(
            f"env=procgen cannot load its library: {error}; on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0"
        ) from None


def _library() -> Any:
    """``procgen.env`` without ``procgen/__init__.py``, whose only further effect is to register the games with the old gym."""
    if "procgen.env" not in sys.modules:
        found = importlib.util.find_spec("procgen")
        if found is None:
            raise MissingDependency(f"env=procgen needs procgen-mirror: {_how_to_install()}")
        sys.modules["procgen"] = importlib.util.module_from_spec(found)
    try:
        return importlib.import_module("procgen.env")
    except ImportError as error:
        raise MissingDependency(f"env=procgen: {error}; {_how_to_install()}") from None


def _how_to_install() -> str:
    if sys.version_info >= WHEELS_END:
        running = ".".join(map(str, sys.version_info[:2]))
        return f"it has wheels for Python 3.11 and 3.12, but not for this one ({running}); make an environment with one of them"
    return "pip install --no-deps -r requirements-procgen.lock"


def protocol(config: ProcgenConfig) -> EvaluationProtocol:
    """The levels trained on, and three sets of others."""
    splits: dict[str, EnvConfig] = {"train": config}
    if config.mode != "exploration":  # which has one level only
        for first in TESTS:
            known = config.num_levels == 0 or (
                config.start_level < first + TEST_LEVELS and first < config.start_level + config.num_levels
            )
            name = f"seen {first}" if known else f"test {first}"
            splits[name] = replace(config, start_level=first, num_levels=TEST_LEVELS)
    return EvaluationProtocol(splits, episodes=200)


SUITE = Suite(ProcgenConfig, make, make_part=make_part, protocol=protocol)
