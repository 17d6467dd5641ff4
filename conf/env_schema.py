"""The options of every environment suite. A suite's section of a configuration has exactly the fields of its class here."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.knobs import HELP, knob


@dataclass
class EnvConfig:
    """Which environment; each suite adds its own options below."""

    suite: str = knob(MISSING, "suite name, a key of envs.registry.SUITES")
    name: str = knob(MISSING, "game, level or id within the suite")
    reward_clip: str = knob("abs_one", "what the loss sees of a reward", choices=("none", "abs_one", "asymmetric"))


@dataclass
class AtariConfig(EnvConfig):
    """Every ALE game, through ale-py's own C++ vector environment; defaults are the paper's preprocessing."""

    suite: str = "atari"
    name: str = knob("breakout", "ALE game, e.g. breakout, ms_pacman")
    frame_skip: int = knob(4, "frames per step", minimum=1)
    frame_stack: int = knob(4, "frames per observation", minimum=1)
    image_size: int = knob(84, "height and width of the observation", minimum=8)
    sticky_actions: float = knob(0.0, "probability that the last action repeats (0.25 in ALE/*-v5)", minimum=0)
    episodic_life: bool = knob(True, "a lost life ends the learner's episode; returns are per game all the same")
    fire_reset: bool = knob(True, "press FIRE after a reset where the game needs it")
    noop_max: int = knob(30, "random no-ops at the start of a game", minimum=0)
    max_frames: int = knob(108_000, "frames after which a game is truncated", minimum=1)
    full_action_space: bool = knob(False, "all 18 actions instead of the game's own")


@dataclass
class GymConfig(EnvConfig):
    """Any registered gymnasium id, through gymnasium's vector API."""

    suite: str = "gym"
    name: str = knob("CartPole-v1", "gymnasium id")
    kwargs: dict[str, Any] = field(default_factory=dict, metadata={HELP: "keyword arguments of gymnasium.make"})
    max_episode_steps: int | None = knob(None, "time limit; null keeps the id's own", minimum=1)
    asynchronous: bool = knob(False, "one process per stream, for slow environments")
    reward_clip: str = knob("none", "what the loss sees of a reward", choices=("none", "abs_one", "asymmetric"))


@dataclass
class ProcgenConfig(EnvConfig):
    """ProcGen's 16 games; defaults are the paper's training levels (PAPER.md 4.2)."""

    suite: str = "procgen"
    name: str = knob("chaser", "game, e.g. chaser, coinrun, maze")
    mode: str = knob("hard", "distribution of levels", choices=("easy", "hard", "extreme", "memory", "exploration"))
    num_levels: int = knob(500, "levels to draw from; 0 is all there are", minimum=0)
    start_level: int = knob(0, "first of them", minimum=0)
    threads: int = knob(0, "worker threads; 0 steps in the actor's own, which is faster on its one core", minimum=0)


@dataclass
class TMazeConfig(EnvConfig):
    """A corridor with a cue at its first step and a choice at its end: credit must reach back over the whole corridor."""

    suite: str = "tmaze"
    name: str = knob("tmaze", "name shown in tables")
    corridor: int = knob(100, "steps between the cue and the choice", minimum=1)
    reward_clip: str = knob("none", "what the loss sees of a reward", choices=("none", "abs_one", "asymmetric"))


@dataclass
class MiniGridConfig(EnvConfig):
    """MiniGrid's partially observed rooms; MemoryS7 to MemoryS17 need memory of a first object."""

    suite: str = "minigrid"
    name: str = knob("MemoryS7", "MiniGrid's name of a task, with or without MiniGrid- and -v0")
    max_episode_steps: int | None = knob(None, "time limit; null keeps the task's own", minimum=1)
    reward_clip: str = knob("none", "what the loss sees of a reward", choices=("none", "abs_one", "asymmetric"))


@dataclass
class DelayedMatchConfig(EnvConfig):
    """A sample, a delay full of distractors, and the question whether the probe is the sample."""

    suite: str = "delayed_match"
    name: str = knob("delayed_match", "name shown in tables")
    delay: int = knob(30, "steps between the sample and the probe", minimum=1)
    symbols: int = knob(4, "different samples", minimum=2)
    reward_clip: str = knob("none", "what the loss sees of a reward", choices=("none", "abs_one", "asymmetric"))


@dataclass
class CopyTaskConfig(EnvConfig):
    """Bits to repeat in the order they were shown; the return is the share of right ones."""

    suite: str = "copy_task"
    name: str = knob("copy_task", "name shown in tables")
    length: int = knob(5, "bits to remember", minimum=1)
    delay: int = knob(0, "steps between the last bit shown and the first one asked", minimum=0)
    reward_clip: str = knob("none", "what the loss sees of a reward", choices=("none", "abs_one", "asymmetric"))


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
