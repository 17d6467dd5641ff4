"""DeepMind Lab workers against bare engines, one of either per core as actors are, and what slow resets cost.

Where the module is not installed, the tests' stand-in takes its place, with steps as long as the real engine's (0.8 ms of work on
``rooms_watermaze`` with software rendering). Slow resets are always the stand-in's, so that they take exactly three seconds.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from actors.ray_fleet import PROCESS_ENVIRONMENT
from benchmarks.measurement import Result, at_least, informs
from conf.env_schema import DMLabConfig
from envs.base import VectorEnv
from envs.registry import make_env

STANDINS = Path(__file__).parents[1] / "tests" / "standins"
LEVEL = "rooms_watermaze"
STREAMS = 16
ROUNDS = 20
STEP_S = 0.0008
NEVER = 10**9
"""Steps of an episode that does not end while it is measured."""
RESET_S = 3.0
SLOW_STREAMS, SLOW_SPARES = 8, 8
SLOW_STEPS = (900, 1800)
"""Shortest and longest episode where resets are slow: half of the watermaze's up to all of it."""

BARE = """
import sys, time
import numpy as np
import deepmind_lab
config = {"width": "96", "height": "72"}
lab = deepmind_lab.Lab("contributed/dmlab30/" + sys.argv[1], ["RGB_INTERLEAVED"], config=config, renderer="software")
action = np.array([0, 0, 0, 1, 0, 0, 0], np.intc)
lab.reset(seed=1)
for seconds in sys.stdin:
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < float(seconds):
        lab.step(action, num_steps=4)
        if not lab.is_running():
            lab.reset(seed=1)
        lab.observations()
        steps += 1
    print(steps / (time.perf_counter() - started), flush=True)
"""

WORKER = """
import sys
from contextlib import closing
from benchmarks.dmlab import STREAMS, steps_per_second
from conf.env_schema import DMLabConfig
from envs.registry import make_env

with closing(make_env(DMLabConfig(name=sys.argv[1], spare_engines=2), STREAMS, 1)) as env:
    env.reset()
    for seconds in sys.stdin:
        print(steps_per_second(env, float(seconds)), flush=True)
"""


def run(seconds: float) -> list[Result]:
    return [*_against_bare_engines(seconds), *_slow_resets(seconds)]


def _against_bare_engines(seconds: float) -> list[Result]:
    real = importlib.util.find_spec("deepmind_lab") is not None
    cores = len(os.sched_getaffinity(0))
    what = "the real engine" if real else f"stand-in, {STEP_S * 1000:g} ms of work per step"
    speeds: dict[str, list[float]] = {"bare": [], "workers": [], "one": []}
    with (
        engines(real, step_s=STEP_S, steps=[NEVER, NEVER]),
        _processes(BARE, cores) as bare,
        _processes(WORKER, cores) as workers,
        _processes(WORKER, 1) as one,
    ):
        turns = {"bare": bare, "workers": workers, "one": one}
        for processes in turns.values():
            _speed_of(processes, seconds / 20)
        for _ in range(ROUNDS):
            for name, processes in turns.items():
                speeds[name].append(_speed_of(processes, seconds / (2 * ROUNDS)))

    def ratio(name: str) -> float:
        return statistics.median(ours / bare for ours, bare in zip(speeds[name], speeds["bare"], strict=True))

    setting = f"{LEVEL}, {cores} environments of {STREAMS} streams, {cores} cores; {what}"
    alone = f"{LEVEL}, one environment of {STREAMS} streams, {cores} cores; {what}"
    return [
        at_least("env/dmlab_vs_bare_engine_per_core", ratio("workers"), 0.85, "x the speed", setting),
        informs("env/dmlab_steps_per_second", statistics.median(speeds["workers"]), "steps/s", setting),
        informs("env/dmlab_one_environment", ratio("one"), "x the speed", alone),
    ]


def _slow_resets(seconds: float) -> list[Result]:
    """Valid steps per second; each environment runs alone, the fast one before and after the slow one."""
    setting = (
        f"episodes of {SLOW_STEPS[0]} to {SLOW_STEPS[1]} steps, resets of {RESET_S:g} s, {SLOW_STREAMS} streams, "
        f"{SLOW_SPARES} spare engines; stand-in"
    )
    before = _speed_with_resets(0.0, SLOW_SPARES, seconds / 2)
    slow = _speed_with_resets(RESET_S, SLOW_SPARES, 2 * seconds)
    without_spares = _speed_with_resets(RESET_S, 0, seconds)
    after = _speed_with_resets(0.0, SLOW_SPARES, seconds / 2)
    fast = (before + after) / 2
    return [
        at_least("env/dmlab_slow_resets", slow / fast, 0.8, "x the speed", setting),
        informs("env/dmlab_slow_resets_without_spares", without_spares / fast, "x the speed", setting),
    ]


def _speed_with_resets(reset_s: float, num_spares: int, seconds: float) -> float:
    config = DMLabConfig(name=LEVEL, spare_engines=num_spares)
    with (
        engines(False, step_s=STEP_S, steps=list(SLOW_STEPS), reset_s=reset_s),
        closing(make_env(config, SLOW_STREAMS, 1)) as env,
    ):
        env.reset()
        # The first episodes all began at once; measuring starts when their ends have spread.
        for _ in range(SLOW_STEPS[1]):
            env.step(np.full(SLOW_STREAMS, 8))
        return steps_per_second(env, seconds)


def steps_per_second(env: VectorEnv, seconds: float) -> float:
    """Steps that were transitions."""
    actions = np.zeros(env.num_envs, np.int64)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        steps += int(env.step(actions).valid.sum())
    return steps / (time.perf_counter() - started)


@contextmanager
def engines(real: bool, **behaviour: object) -> Iterator[None]:
    """Where engines that are started inside find the module: the real one, or the stand-in behaving like this."""
    path, variable = list(sys.path), os.environ.get("FAKE_LAB")
    if not real:
        sys.path.insert(0, str(STANDINS))
        os.environ["FAKE_LAB"] = json.dumps(behaviour)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        if variable is None:
            os.environ.pop("FAKE_LAB", None)
        else:
            os.environ["FAKE_LAB"] = variable


@contextmanager
def _processes(program: str, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that step as fast as they can for as many seconds as a line on their standard input says."""
    paths = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, LEVEL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | PROCESS_ENVIRONMENT | paths,
        )
        for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.communicate()


def _speed_of(processes: list[subprocess.Popen[str]], seconds: float) -> float:
    """Of all together, at the same time."""
    for process in processes:
        assert process.stdin is not None
        print(seconds, file=process.stdin, flush=True)
    return sum(float(_line(process)) for process in processes)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
