"""Our vector environments against the bare loop of the library they stand on, in turns on one thread; DMLab's are in ``dmlab.py``."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import dmlab
from benchmarks.measurement import Result, at_least, informs
from conf.env_schema import AtariConfig, ProcgenConfig
from envs.base import Discrete, MissingDependency, VectorEnv
from envs.registry import make_env

STREAMS = 32
ROUNDS = 8

Loop = Callable[[int], None]
"""Takes that many steps in every stream."""


def run(seconds: float) -> list[Result]:
    results = _compare("atari", *_atari(), seconds, "Breakout")
    try:
        results += _compare("procgen", *_procgen(), seconds, "Chaser, hard")
    except MissingDependency as error:
        print(f"not measured: {error}")
    return results + dmlab.run(seconds)


def _compare(suite: str, ours: Loop, bare: Loop, seconds: float, game: str) -> list[Result]:
    setting = f"{game}, {STREAMS} streams, 1 thread"
    speeds: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(ROUNDS):
        for name, loop in (("ours", ours), ("bare", bare)):
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < seconds / (2 * ROUNDS):
                loop(20)
                steps += 20 * STREAMS
            speeds[name].append(steps / (time.perf_counter() - started))
    ratio = statistics.median(a / b for a, b in zip(speeds["ours"], speeds["bare"], strict=True))
    return [
        at_least(f"env/{suite}_vs_library", ratio, 0.9, "x the speed", setting),
        informs(f"env/{suite}_steps_per_second", statistics.median(speeds["ours"]), "steps/s", setting),
    ]


def _atari() -> tuple[Loop, Loop]:
    from ale_py.vector_env import AtariVectorEnv

    env = make_env(AtariConfig(), STREAMS, 1)
    env.reset()
    bare = AtariVectorEnv(
        "breakout", STREAMS, num_threads=1, life_loss_info=True, reward_clipping=False, autoreset_mode="SameStep"
    )
    bare.reset(seed=1)
    actions = _actions(env)
    return _repeat(lambda: env.step(actions)), _repeat(lambda: bare.step(actions))


def _procgen() -> tuple[Loop, Loop]:
    config = ProcgenConfig()
    env = make_env(config, STREAMS, 1)
    env.reset()
    from procgen.env import ProcgenGym3Env  # our adapter has made it importable without the old gym

    bare = ProcgenGym3Env(
        num=STREAMS,
        env_name=config.name,
        num_levels=config.num_levels,
        start_level=config.start_level,
        distribution_mode=config.mode,
        rand_seed=1,
        num_threads=0,
    )
    actions = _actions(env)
    gym3_actions: Any = actions.astype(np.int32)  # its annotation knows dictionaries only

    def step() -> None:
        bare.act(gym3_actions)
        bare.observe()

    return _repeat(lambda: env.step(actions)), _repeat(step)


def _actions(env: VectorEnv) -> np.ndarray:
    assert isinstance(env.spec.actions, Discrete)
    return np.random.default_rng(0).integers(0, env.spec.actions.num_actions, STREAMS)


def _repeat(step: Callable[[], object]) -> Loop:
    def loop(count: int) -> None:
        for _ in range(count):
            step()

    return loop
