"""The options of every environment suite. A suite's section of a configuration has exactly the fields of its class here."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from conf.knobs import MAX_BYTES, MAX_S, knob
from conf.places import holds_text, imports_module, leaves_folder

MAX_INT32 = 2**31 - 1
"""Of engines that count in C."""


def reward_clip(default: str) -> Any:
    """The knob of every suite, with the suite's own default."""
    return knob(default, "what the loss sees of a reward", choices=("none", "abs_one", "asymmetric"))


@dataclass
class EnvConfig:
    """Which environment; each suite adds its own options below."""

    suite: str = knob(MISSING, "suite: a key of envs.registry.SUITES, a name that a package registers, or MODULE:NAME")
    name: str = knob(MISSING, "game, level or id within the suite")
    reward_clip: str = reward_clip("abs_one")


@dataclass
class AtariConfig(EnvConfig):
    """Every ALE game, through ale-py's own C++ vector environment; defaults are the paper's preprocessing."""

    suite: str = "atari"
    name: str = knob("breakout", "ALE game, e.g. breakout, ms_pacman")
    frame_skip: int = knob(4, "frames per step", minimum=1, maximum=1000)
    frame_stack: int = knob(4, "frames per observation", minimum=1, maximum=256)
    image_size: int = knob(84, "height and width of the observation", minimum=8, maximum=4096)
    sticky_actions: float = knob(
        0.0, "probability that the last action repeats (0.25 in ALE/*-v5)", minimum=0, maximum=1
    )
    episodic_life: bool = knob(True, "a lost life ends the learner's episode; returns are per game all the same")
    fire_reset: bool = knob(True, "press FIRE where a game has it, when env.opening says so")
    opening: str = knob(
        "paper",
        "paper: a no-op after a lost life, then FIRE and the third action, also when a game starts; ale: FIRE when a game starts",
        choices=("paper", "ale"),
    )
    noop_max: int = knob(30, "random no-ops at the start of a game", minimum=0, maximum=1_000_000)
    max_frames: int = knob(108_000, "frames after which a game is truncated", minimum=1, maximum=MAX_INT32)
    full_action_space: bool = knob(False, "all 18 actions instead of the game's own")
    threads: int = knob(
        1, "threads that emulate, of each part of an actor's streams (actors.pipeline)", minimum=1, maximum=1024
    )


@dataclass
class GymConfig(EnvConfig):
    """Any gymnasium id, through its vector API; gym/MODULE:ID imports MODULE, which registers yours."""

    suite: str = "gym"
    name: str = knob("CartPole-v1", "gymnasium id, or MODULE:ID", place=imports_module)
    kwargs: dict[str, Any] = knob({}, "arguments of its constructor, as env.kwargs.size=5", place=holds_text)
    max_episode_steps: int | None = knob(None, "time limit; null keeps the id's own", minimum=1, maximum=MAX_INT32)
    asynchronous: bool = knob(False, "one process per stream, for slow environments")
    reward_clip: str = reward_clip("none")


@dataclass
class ProcgenConfig(EnvConfig):
    """ProcGen's 16 games; defaults are the paper's training levels."""

    suite: str = "procgen"
    name: str = knob("chaser", "game, e.g. chaser, coinrun, maze")
    mode: str = knob("hard", "distribution of levels", choices=("easy", "hard", "extreme", "memory", "exploration"))
    num_levels: int = knob(500, "levels to draw from; 0 is all there are", minimum=0, maximum=MAX_INT32)
    start_level: int = knob(0, "first of them", minimum=0, maximum=MAX_INT32)
    threads: int = knob(
        0,
        "worker threads; 0 steps in the actor's own, which is faster on its one core; with actors.pipeline at least one for each part",
        minimum=0,
        maximum=1024,
    )


@dataclass
class TMazeConfig(EnvConfig):
    """A corridor with a cue at its first step and a choice at its end: credit must reach back over the whole corridor."""

    suite: str = "tmaze"
    name: str = knob("tmaze", "name shown in tables")
    corridor: int = knob(100, "steps between the cue and the choice", minimum=1, maximum=1_000_000)
    reward_clip: str = reward_clip("none")


@dataclass
class MiniGridConfig(EnvConfig):
    """MiniGrid's partially observed rooms; MemoryS7 to MemoryS17 need memory of a first object."""

    suite: str = "minigrid"
    name: str = knob("MemoryS7", "MiniGrid's name of a task, with or without MiniGrid- and -v0", place=imports_module)
    max_episode_steps: int | None = knob(None, "time limit; null keeps the task's own", minimum=1, maximum=MAX_INT32)
    reward_clip: str = reward_clip("none")


@dataclass
class DelayedMatchConfig(EnvConfig):
    """A sample, a delay full of distractors, and the question whether the probe is the sample."""

    suite: str = "delayed_match"
    name: str = knob("delayed_match", "name shown in tables")
    delay: int = knob(30, "steps between the sample and the probe", minimum=1, maximum=1_000_000)
    symbols: int = knob(4, "different samples", minimum=2, maximum=10_000)
    reward_clip: str = reward_clip("none")


@dataclass
class DMLabConfig(EnvConfig):
    """One level of DeepMind Lab; needs a deepmind_lab module of your own (docs/dmlab.md)."""

    suite: str = "dmlab"
    name: str = knob("rooms_watermaze", "level of DMLab-30, or a level's path inside the engine", place=leaves_folder)
    split: str = knob("train", "test: hold-out levels and IMPALA's mixer seed", choices=("train", "test"))
    actions: str = knob("nine", "action set: IMPALA's, or R2D2's with finer turns", choices=("nine", "fifteen"))
    frame_skip: int = knob(4, "frames per step", minimum=1, maximum=1000)
    width: int = knob(96, "of the picture, a multiple of 4", minimum=4, maximum=4096)
    height: int = knob(72, "of the picture, a multiple of 4", minimum=4, maximum=4096)
    instruction: bool = knob(False, "feed the level's instruction to the core, as word hashes")
    renderer: str = knob("software", "hardware needs a GPU and its drivers", choices=("software", "hardware"))
    dataset_path: str | None = knob(None, "pictures of two psychlab levels (docs/dmlab.md)", place=True)
    num_levels: int | None = knob(None, "level seeds to draw from; null is all there are", minimum=1, maximum=MAX_INT32)
    start_level: int = knob(0, "first of them", minimum=0, maximum=MAX_INT32)
    spare_engines: int = knob(
        1, "engines kept ready per actor, to take over where an episode ends", minimum=0, maximum=1000
    )
    wait_for_reset: bool = knob(
        False,
        "hold all streams until a new episode is ready: repeatable where the level is; false leaves its rows out of the loss",
    )
    step_timeout_s: float = knob(
        30.0, "an engine silent for longer during a step is replaced", minimum=0.1, maximum=MAX_S
    )
    reset_timeout_s: float = knob(300.0, "the same for starting an engine or an episode", minimum=0.1, maximum=MAX_S)
    level_cache: str | None = knob(
        None, "folder of compiled levels, shared by a machine's actors; null keeps none", place=True
    )
    level_cache_remote: str | None = knob(
        None, "second tier behind it: any fsspec address, s3://bucket/levels", place=True
    )
    level_cache_bytes: int = knob(
        20_000_000_000, "size of level_cache beyond which the oldest go", minimum=1, maximum=MAX_BYTES
    )


@dataclass
class DMLab30Config(DMLabConfig):
    """DMLab-30: one agent on thirty levels, spread over the streams."""

    suite: str = "dmlab30"
    name: str = knob("dmlab30", "name shown in tables")
    levels: list[str] = knob([], "levels to play, by name; empty is all thirty", length=(0, 1000), place=leaves_folder)
    schedule: str = knob(
        "fixed", "fixed: a level per stream; equal: the level with the fewest steps is next", choices=("fixed", "equal")
    )
    spare_engines: int = knob(
        0, "engines kept ready per actor; a fixed schedule wants one per level", minimum=0, maximum=1000
    )
    instruction: bool = knob(True, "feed the level's instruction to the core, as word hashes")
    reward_clip: str = reward_clip("asymmetric")


@dataclass
class CopyTaskConfig(EnvConfig):
    """Bits to repeat in the order they were shown; the return is the share of right ones."""

    suite: str = "copy_task"
    name: str = knob("copy_task", "name shown in tables")
    length: int = knob(5, "bits to remember", minimum=1, maximum=1_000_000)
    delay: int = knob(0, "steps between the last bit shown and the first one asked", minimum=0, maximum=1_000_000)
    reward_clip: str = reward_clip("none")


BEFORE: dict[str, dict[str, Any]] = {"atari": {"opening": "ale"}}
"""What configurations that were stored before an option existed meant by not having it, where that is not its default."""

ENV_CONFIGS: dict[str, type[EnvConfig]] = {
    "atari": AtariConfig,
    "gym": GymConfig,
    "procgen": ProcgenConfig,
    "tmaze": TMazeConfig,
    "delayed_match": DelayedMatchConfig,
    "copy_task": CopyTaskConfig,
    "minigrid": MiniGridConfig,
    "dmlab": DMLabConfig,
    "dmlab30": DMLab30Config,
}
