"""Our vector environments against the bare loop of the library they stand on, in turns on one thread."""

import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.measurement import Result, at_least, informs
from conf.env_schema import AtariConfig
from envs.base import Discrete
from envs.registry import make_env

STREAMS = 32


def run(seconds: float) -> list[Result]:
    ours, bare = _atari()
    return _compare("atari", ours, bare, 0.9, seconds, f"Breakout, {STREAMS} streams, 1 thread")


def _compare(
    suite: str, ours: Callable[[int], None], bare: Callable[[int], None], target: float, seconds: float, setting: str
) -> list[Result]:
    speeds: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(8):
        for name, loop in (("ours", ours), ("bare", bare)):
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < seconds / 16:
                loop(20)
                steps += 20 * STREAMS
            speeds[name].append(steps / (time.perf_counter() - started))
    ratio = statistics.median(a / b for a, b in zip(speeds["ours"], speeds["bare"], strict=True))
    return [
        at_least(f"env/{suite}_vs_library", ratio, target, "x the speed", setting),
        informs(f"env/{suite}_steps_per_second", statistics.median(speeds["ours"]), "steps/s", setting),
    ]


def _atari() -> tuple[Callable[[int], None], Callable[[int], None]]:
    from ale_py.vector_env import AtariVectorEnv

    env = make_env(AtariConfig(), STREAMS, 1)
    env.reset()
    bare = AtariVectorEnv(
        "breakout", STREAMS, num_threads=1, life_loss_info=True, reward_clipping=False, autoreset_mode="SameStep"
    )
    bare.reset(seed=1)
    assert isinstance(env.spec.actions, Discrete)
    actions = np.random.default_rng(0).integers(0, env.spec.actions.num_actions, STREAMS)
    return _repeat(env.step, actions), _repeat(bare.step, actions)


def _repeat(step: Callable[[np.ndarray], object], actions: np.ndarray) -> Callable[[int], None]:
    def loop(count: int) -> None:
        for _ in range(count):
            step(actions)

    return loop
