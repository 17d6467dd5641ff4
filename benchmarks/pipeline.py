"""One actor on two cores: streams in two groups against all of them at once, where the environment takes less or more of the time.

Without groups, the emulator's thread and the network take turns on the cores. ``actors.threads`` and ``env.threads`` spread either over
both cores without any groups: what that gives stands beside it.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import psutil
import torch

from actors.actor import Actor, build_actor
from actors.build import build_network
from actors.precision import autocast_type, prepare_process, torch_threads
from actors.stem import ROWS_AT_ONCE, JoinedStem, RetainedStem, StemPass, StepInput, join_passes
from actors.worker import ActorIdentity
from benchmarks.dmlab import NEVER, STEP_S, engines
from benchmarks.measurement import Result, at_least, informs
from conf.load import load_train
from r2ac.training.build import describe_environment
from r2ac.training.sizing import sized
from rtrl_core import FlatParameters, WeightsSnapshot

ATARI = (
    "experiment=atari_breakout_rtrl",
    "network=nature",
    "fleet.num_streams=null",
    "actors.num_envs=32",
    "actors.unroll=25",
)
TASKS: dict[str, tuple[tuple[str, ...], str]] = {
    "large_core": ((*ATARI, "network.num_units=1024"), "Breakout, nature stem, N=1024, T=25, B=32"),
    "nature": (ATARI, "Breakout, nature stem, N=256, T=25, B=32"),
    "small_pictures": ((*ATARI, "env.image_size=60"), "Breakout in 60x60, nature stem, N=256, T=25, B=32"),
}
DMLAB = ("env=dmlab/rooms_watermaze", "network=nature", "actors.num_envs=32", "actors.unroll=25", "env.spare_engines=2")
CANDIDATES: dict[str, tuple[tuple[str, ...], int]] = {
    "one": ((), 1),
    "groups": (("actors.pipeline=2",), 2),
    "threads": ((), 2),
    "all_threads": (("env.threads=2",), 2),
}
"""Words, and torch threads."""
ROUNDS = 7


class Unroll(NamedTuple):
    steps_per_second: float
    environment: float
    """Share of its time that it waits for the environment."""
    busy: float
    """Share of the cores' time that the actor and its engines had."""


def run(seconds: float) -> list[Result]:
    """As long as it takes: three minutes on two cores."""
    del seconds
    results = []
    for task, (words, setting) in TASKS.items():
        speeds, unrolls = _in_turns(words, tuple(CANDIDATES))
        setting = f"{setting}, one actor, {psutil.cpu_count()} cores"
        results.append(at_least(f"pipeline/{task}_groups", speeds.pop("groups"), 1.35, "x the speed", setting))
        results += _more(task, speeds, unrolls, setting)
    with engines(False, step_s=STEP_S, steps=[NEVER, NEVER]):
        speeds, unrolls = _in_turns(DMLAB, ("one", "groups", "threads"))
    setting = (
        f"rooms_watermaze, stand-in with {STEP_S * 1000:g} ms of work per step, nature stem, N=256, T=25, B=32, one actor, "
        f"{psutil.cpu_count()} cores"
    )
    busy = {name: statistics.median(unroll.busy for unroll in unrolls[name]) for name in unrolls}
    results.append(at_least("pipeline/dmlab_cores_busy", busy["groups"], 0.85, "share of the cores", setting))
    results.append(informs("pipeline/dmlab_cores_busy_without_groups", busy["one"], "share of the cores", setting))
    results.append(informs("pipeline/dmlab_groups", speeds.pop("groups"), "x the speed", setting))
    return [*results, *_more("dmlab", speeds, unrolls, setting), *_joined_steps()]


def _joined_steps() -> list[Result]:
    """The backward pass of the stem alone, over 48 steps, joined to 128 rows against each step by itself."""
    results = []
    for encoder, streams in (("nature", 16), ("nature", 32), ("impala", 16)):
        config = load_train(["env=atari/breakout", f"network={encoder}"])
        network = build_network(config.network, config.rule, describe_environment(config, print))
        FlatParameters(network)
        none = torch.zeros(streams)
        frames = torch.randint(0, 255, (48, streams, 4, 84, 84), dtype=torch.uint8)
        steps = [StepInput(frame, none, none.long(), none.bool(), None) for frame in frames]
        forward = StemPass(network, autocast_type("auto", torch.device("cpu")))
        passes = join_passes(forward, steps[0])
        assert passes is not None
        stems = {"joined": JoinedStem(forward, passes, ROWS_AT_ONCE["cpu"]), "apart": RetainedStem(forward)}
        times: dict[str, list[float]] = {name: [] for name in stems}
        for turn in range(4):
            for name, stem in stems.items():
                outputs = torch.stack([stem.inputs(step) for step in steps])
                gradient, started = torch.full_like(outputs, 0.01), time.perf_counter()
                stem.backward(gradient)
                times[name] += [time.perf_counter() - started] if turn else []
        ratio = statistics.median(times["joined"]) / statistics.median(times["apart"])
        setting = f"Breakout, B={streams}, stem alone, 1 thread"
        results.append(informs(f"pipeline/joined_steps_{encoder}_B{streams}", ratio, "x the time", setting))
    return results


def _more(task: str, speeds: dict[str, float], unrolls: dict[str, list[Unroll]], setting: str) -> list[Result]:
    waited = statistics.median(unroll.environment for unroll in unrolls["one"])
    speed = statistics.median(unroll.steps_per_second for unroll in unrolls["one"])
    return [
        informs(f"pipeline/{task}_environment", waited, "share of the time without groups", setting),
        informs(f"pipeline/{task}_steps_per_second", speed, "steps/s without groups", setting),
        *(
            informs(f"pipeline/{task}_without_groups_{name}", ratio, "x the speed", setting)
            for name, ratio in speeds.items()
        ),
    ]


def _in_turns(words: Sequence[str], names: Sequence[str]) -> tuple[dict[str, float], dict[str, list[Unroll]]]:
    """The speed of each candidate against ``one``, by medians of neighbours in time, and the unrolls of all."""
    prepare_process(1)
    unrolls: dict[str, list[Unroll]] = defaultdict(list)
    with ExitStack() as stack:
        actors = {name: _actor([*words, *CANDIDATES[name][0]]) for name in names}
        for actor in actors.values():
            stack.callback(actor.close)
        for turn in range(ROUNDS + 1):
            for name, actor in actors.items():
                with torch_threads(CANDIDATES[name][1]):
                    unroll = _unroll(actor)
                if turn:
                    unrolls[name].append(unroll)
    ratios = {
        name: statistics.median(
            ours.steps_per_second / one.steps_per_second
            for ours, one in zip(unrolls[name], unrolls["one"], strict=True)
        )
        for name in names
        if name != "one"
    }
    return ratios, unrolls


def _actor(words: Sequence[str]) -> Actor:
    config = sized(load_train([*words, "logging=quiet", "fleet.num_actors=1"]), 1)
    return build_actor(config, ActorIdentity(0, 0, 1))


def _unroll(actor: Actor) -> Unroll:
    weights = WeightsSnapshot(0, actor.layout, actor.parameters.vector)
    cpu, started = _cpu_s(), time.perf_counter()
    contribution = actor.unroll(weights)
    elapsed = time.perf_counter() - started
    return Unroll(
        contribution.header.num_steps / elapsed,
        contribution.statistics.env_time_s / elapsed,
        (_cpu_s() - cpu) / elapsed / (psutil.cpu_count() or 1),
    )


def _cpu_s() -> float:
    """Of this process and all engines."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)
