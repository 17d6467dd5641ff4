"""Whole training through Ray, on Breakout and ProcGen: RTRL against truncated BPTT, and against the floor of its own parts.

The floor is what the machine gives when each part has it alone, measured by as many processes at the same
batch: the environment by itself, and the network's forward and backward passes by themselves. A system without any cost of its own
would run at ``1 / (1/env + 1/network)``.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import ray
import torch

from actors.build import build_network
from actors.precision import carries_bfloat16_well, prepare_process
from actors.ray_fleet import process_options
from actors.stem import RetainedStem, StemPass, StepInput
from benchmarks.measurement import Result, at_least, informs
from benchmarks.training import training
from conf.load import load_train
from conf.schema import RuleConfig, TrainConfig
from envs.base import Discrete
from envs.registry import make_env
from learner.schedules import asynchronous
from r2ac.cluster.session import ray_cluster
from r2ac.training.build import available_cores
from r2ac.training.sizing import sized

ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    words: tuple[str, ...]
    streams: int
    """Per actor."""
    expected: float | None
    """Steps/s to expect on two cores, where the issue that asked for the benchmark named them."""
    rules: tuple[str, ...]
    setting: str


TASKS = (
    Task(
        "nature",
        ("experiment=atari_breakout_rtrl", "network=nature"),
        *(32, 2500.0, ("segment", "tbptt"), "Breakout, nature stem"),
    ),
    Task(
        "impala",
        ("experiment=atari_breakout_rtrl", "network=impala"),
        *(16, 750.0, ("segment", "tbptt"), "Breakout, impala stem"),
    ),
    Task(
        "procgen",
        ("experiment=procgen_chaser_rtrl_m50", "network=impala"),
        *(16, None, ("segment",), "ProcGen Chaser, impala stem"),
    ),
)


def run(seconds: float) -> list[Result]:
    actors = available_cores()
    return [result for task in TASKS for result in _run_task(task, actors, seconds)]


def _run_task(task: Task, actors: int, seconds: float) -> list[Result]:
    configs = {rule: _config(task, rule, actors) for rule in task.rules}
    setting = f"{task.setting}, N=256, T=50, {actors} actors of B={task.streams}, Ray, autocast auto"
    with ray_cluster(configs["segment"], actors):
        floor = _floor(configs["segment"], actors, seconds / 2)
        speeds: dict[str, list[float]] = {rule: [] for rule in configs}
        wire = 0.0
        for _ in range(ROUNDS):
            for rule, config in configs.items():
                speed, wire = _training_speed(config, actors, seconds)
                speeds[rule].append(speed)
    medians = {rule: statistics.median(values) for rule, values in speeds.items()}
    rtrl = medians["segment"]
    results = [
        at_least(f"train/{task.name}_vs_floor", rtrl / floor, 0.75, "x the floor", setting),
        informs(f"train/{task.name}_floor_steps_per_second", floor, "steps/s", setting),
        informs(f"train/{task.name}_wire_bytes_per_step_float32", wire, "bytes", setting),
        informs(f"train/{task.name}_wire_bytes_per_step_bfloat16", wire / 2, "bytes", setting),
    ]
    steps_per_second = f"train/{task.name}_steps_per_second"
    if task.expected is None:
        results.insert(1, informs(steps_per_second, rtrl, "steps/s", setting))
    else:
        results.insert(1, at_least(steps_per_second, rtrl, task.expected, "steps/s", setting))
    if "tbptt" in medians:
        ratio = rtrl / medians["tbptt"]
        results.insert(0, at_least(f"train/{task.name}_rtrl_vs_tbptt", ratio, 0.95, "x the speed", setting))
    return results


def _config(task: Task, rule: str, actors: int) -> TrainConfig:
    words = [
        *task.words,
        *(f"rule={rule}", "logging=quiet", f"actors.num_envs={task.streams}"),
        *(f"learner.batch_segments={actors * task.streams}", f"fleet.num_actors={actors}", "fleet.max_restarts=0"),
    ]
    return sized(load_train(words), actors)


def _training_speed(config: TrainConfig, actors: int, seconds: float) -> tuple[float, float]:
    """Steps per second of fleet, learner and schedule together, after a warm-up of two unrolls each; and bytes per step."""
    with training(config) as (fleet, learner):
        started, elapsed, steps_before, steps, received, sent = 0.0, 1.0, 0, 0, 0, 0
        for progress in asynchronous(fleet, learner, in_flight=1):
            for receipt in progress.receipts:
                received += 1
                steps, sent = receipt.counters.agent_steps, receipt.counters.wire_bytes
                if received == 2 * actors:
                    started, steps_before = time.perf_counter(), steps
            elapsed = time.perf_counter() - started
            if received > 4 * actors and elapsed >= seconds:
                break
    return (steps - steps_before) / elapsed, sent / steps


def _floor(config: TrainConfig, processes: int, seconds: float) -> float:
    """The sum over processes of what one step costs in its parts, each part having the machine to itself."""

    def alone(part: str) -> float:
        task = ray.remote(_part_speed).options(num_cpus=1, **process_options(config.fleet))
        return sum(ray.get([task.remote(config, part, seconds) for _ in range(processes)]))

    return 1 / (1 / alone("environment") + 1 / alone("network"))


def _part_speed(config: TrainConfig, part: str, seconds: float) -> float:
    prepare_process(1)
    return _environment_speed(config, seconds) if part == "environment" else _network_speed(config, seconds)


def _environment_speed(config: TrainConfig, seconds: float) -> float:
    env = make_env(config.env, config.actors.streams, 1)
    assert isinstance(env.spec.actions, Discrete)
    env.reset()
    actions = np.random.default_rng(0).integers(0, env.spec.actions.num_actions, (1000, env.num_envs))
    for step in range(50):
        env.step(actions[step])
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        env.step(actions[steps % 1000])
        steps += 1
    return steps * env.num_envs / (time.perf_counter() - started)


def _network_speed(config: TrainConfig, seconds: float) -> float:
    """Forward once and backward once per step, activations kept, over a whole unroll: stem, core under truncated BPTT, heads."""
    env = make_env(config.env, config.actors.streams, 1)
    observation = torch.from_numpy(env.reset().observation)
    network = build_network(config.network, RuleConfig("tbptt"), env.spec)
    env.close()
    streams, unroll = config.actors.streams, config.actors.unroll
    stem = RetainedStem(StemPass(network, torch.bfloat16 if carries_bfloat16_well(torch.device("cpu")) else None))
    step = StepInput(
        observation,
        torch.zeros(streams),
        torch.zeros(streams, dtype=torch.int64),
        torch.zeros(streams, dtype=torch.bool),
        None,
    )
    is_first = torch.zeros(unroll, streams, dtype=torch.bool)

    def one_unroll() -> None:
        inputs = torch.stack([stem.inputs(step) for _ in range(unroll)]).requires_grad_()
        output, _ = network.unroll(inputs, network.initial_state(streams), is_first)
        (output.parameters.sum() + output.values.sum()).backward()
        assert inputs.grad is not None
        stem.backward(inputs.grad)

    one_unroll()
    one_unroll()
    started, unrolls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        one_unroll()
        unrolls += 1
    return unrolls * unroll * streams / (time.perf_counter() - started)
