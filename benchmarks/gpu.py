"""On a machine with a CUDA device: what the GPU path reaches of what the device can do. Five minutes.

Ceilings are measured in the same run: a copy inside the device (bytes read and written), and copies from and to page-locked memory. A share
is the bytes that have to move, each once, over the ceiling, over the time that was taken.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from actors.actor import Actor
from actors.graphs import Recorded
from actors.precision import autocast_type, prepare_process
from actors.recorded import RecordedPasses
from actors.stem import StemPass
from actors.worker import ActorIdentity
from benchmarks.measurement import Result, at_least, informs
from benchmarks.training import training
from conf.load import load_train
from conf.schema import TrainConfig
from envs.actions import Discrete
from envs.base import EnvSpec, Timestep, VectorEnv
from learner.learner import GradientPlan
from learner.schedules import asynchronous
from r2ac.cluster.session import ray_cluster
from r2ac.training.build import available_cores, describe_environment, initial_weights
from r2ac.training.sizing import sized
from rtrl_core import DiagonalCore, ParameterLayout, WeightsSnapshot, carried

BREAKOUT = ("env=atari/breakout", "logging=quiet", "fleet.num_actors=1", "network.num_units=512", "actors.unroll=20")
ROUNDS = 15


def run(seconds: float) -> Iterator[Result]:
    """Raises ``SystemExit`` without a CUDA device."""
    if not torch.cuda.is_available():
        raise SystemExit("error: the group gpu needs a CUDA device, and there is none here; leave it out")
    prepare_process(min(4, available_cores()))
    name = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    copied, up, down = _ceilings()
    ceilings = {"copy": copied, "upload": up, "download": down}
    parts = (
        (informs(f"gpu/{which}_gb_per_s", value / 1e9, "GB/s", name) for which, value in ceilings.items()),
        _cores(name, copied),
        _acting(name),
        _actors(name),
        _learner(name, up, copied),
        _training(name, seconds),
    )
    for result in chain.from_iterable(parts):
        print(f"{result.name} {result.value:.4g} {result.unit}", flush=True)
        yield result


def median_s(work: Callable[[], object], rounds: int = ROUNDS, warmup: int = 3) -> float:
    """Of the device, too."""
    times: list[float] = []
    for turn in range(warmup + rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times += [time.perf_counter() - started] if turn >= warmup else []
    return statistics.median(times)


def _ceilings() -> tuple[float, float, float]:
    """Bytes per second inside the device, to it and from it."""
    size = 1 << 29
    one, other = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    host = torch.empty(size >> 3, dtype=torch.uint8, pin_memory=True)
    part = one[: size >> 3]
    inside = median_s(lambda: other.copy_(one))
    up = median_s(lambda: part.copy_(host, non_blocking=True))
    down = median_s(lambda: host.copy_(part, non_blocking=True))
    return 2 * size / inside, len(host) / up, len(host) / down


class _Unrolls:
    """One unroll after the other through a core, forward and backward, as an actor does it: recorded, or call by call."""

    def __init__(self, rule: str, steps: int, streams: int, units: int, *, is_recorded: bool) -> None:
        torch.manual_seed(0)
        self.core = DiagonalCore(257, units, "elstm", rule).to("cuda")
        self.core.advance_in_backward()
        for parameter in self.core.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.inputs = 0.1 * torch.randn(steps, streams, 257, device="cuda")
        self.weights = torch.randn(steps, streams, units, device="cuda")
        self.is_first = torch.zeros(steps, streams, dtype=torch.bool, device="cuda")
        self.is_first[steps // 3, ::5] = True
        self.state = self.core.initial_state(streams)
        carries = self.core.carries_sensitivity
        self._pass, self._settle = self._gradient, lambda: self.core.settle(self.state)
        if is_recorded:
            device = torch.device("cuda")
            self._pass = Recorded(device, self._gradient)
            self._settle = Recorded(device, lambda: self.core.settle(self.state)) if carries else lambda: None

    @property
    def sensitivity_bytes(self) -> int:
        return carried.size_bytes(self.state.sensitivity)

    def _gradient(self) -> None:
        for parameter in self.core.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        inputs = self.inputs.detach().requires_grad_()
        outputs, _ = self.core(inputs, self.state, self.is_first)
        outputs.backward(self.weights)

    def step(self) -> None:
        self._pass()
        self._settle()


def _cores(name: str, copied: float) -> Iterator[Result]:
    for steps, streams, units in ((20, 32, 512), (20, 256, 512), (20, 512, 256), (1, 256, 512)):
        setting = f"{name}; core alone, T={steps} B={streams} N={units} D=257, float32, forward and backward"
        of = f"T{steps}_B{streams}_N{units}"
        problem = _Unrolls("segment", steps, streams, units, is_recorded=True)
        graph = median_s(problem.step)
        calls = median_s(_Unrolls("segment", steps, streams, units, is_recorded=False).step)
        truncated = median_s(_Unrolls("tbptt", steps, streams, units, is_recorded=True).step)
        floor = 2 * problem.sensitivity_bytes / copied
        yield informs(f"gpu/core_{of}_ms", 1e3 * graph, "ms", setting)
        yield informs(f"gpu/core_{of}_without_graphs_ms", 1e3 * calls, "ms", setting)
        yield informs(f"gpu/core_{of}_segment_vs_tbptt", graph / truncated, "x the time", setting)
        yield informs(f"gpu/core_{of}_bandwidth", floor / graph, "share: S read and written once", setting)


class _Games(VectorEnv):
    """Pictures of noise, that cost no time."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.spec = EnvSpec("noise/noise", (4, 84, 84), "uint8", "CHW", Discrete(4), action_repeat=4)
        self._random = np.random.default_rng(0)
        self._pictures = [self._random.integers(0, 255, (num_envs, 4, 84, 84), np.uint8) for _ in range(4)]
        self._nothing = np.zeros(num_envs, bool)
        self._steps = 0

    def reset(self) -> Timestep:
        everywhere = ~self._nothing
        return self._timestep(self._nothing, everywhere, self._nothing)

    def step(self, actions: np.ndarray) -> Timestep:
        over = self._random.random(self.num_envs) < 0.005
        return self._timestep(over, over, ~self._nothing)

    def _timestep(self, terminated: np.ndarray, is_first: np.ndarray, valid: np.ndarray) -> Timestep:
        self._steps += 1
        reward = np.zeros(self.num_envs, np.float32)
        return Timestep(self._pictures[self._steps % 4], reward, terminated, self._nothing, is_first, valid)


def _actor(streams: int, *words: str) -> Actor:
    config = sized(load_train([*BREAKOUT, f"actors.num_envs={streams}", "actors.device=cuda", *words]), 1)
    identity, env = ActorIdentity(0, 0, 1), _Games(streams)
    return Actor(identity, [env], config.network, config.rule, config.loss, config.actors, config.env.reward_clip)


def _acting(name: str) -> Iterator[Result]:
    """One pass from an observation on the device to policy, value and cell."""
    for network in ("nature", "impala"):
        for streams in (32, 128, 512):
            actor = _actor(streams, f"network={network}", "actors.cuda_graphs=never")
            forward = StemPass(actor.network, autocast_type("auto", actor.device))
            step, cell = actor.rollout.example()
            passes = RecordedPasses(forward, step, cell)

            def calls(forward: StemPass = forward, step=step, cell=cell) -> None:
                with torch.no_grad():
                    forward.network.act(forward(step), cell, step.is_first)

            setting = f"{name}; Breakout's shapes, {network} stem, N=512, B={streams}, one acting pass"
            graph, apart = median_s(lambda: passes(step, cell)), median_s(calls)  # noqa: B023 - called here
            yield informs(f"gpu/act_{network}_B{streams}_us", 1e6 * graph, "us", setting)
            yield informs(f"gpu/act_{network}_B{streams}_graph_vs_calls", apart / graph, "x faster", setting)


def _actors(name: str) -> Iterator[Result]:
    """Whole unrolls of one actor, with games that cost nothing."""
    for network, sizes in (("nature", (32, 128, 512)), ("impala", (32, 128))):
        for streams in sizes:
            setting = f"{name}; noise in Breakout's shapes, {network} stem, N=512, T=20, B={streams}, one actor"
            speeds: dict[str, float] = {}
            for graphs in ("never", "always"):
                actor = _actor(streams, f"network={network}", f"actors.cuda_graphs={graphs}")
                unrolls = [_unroll(actor, version) for version in range(3 + 5)][3:]
                speeds[graphs], act, learn = (statistics.median(part) for part in zip(*unrolls, strict=True))
                if graphs == "always":
                    yield informs(f"gpu/actor_{network}_B{streams}_act_ms", act, "ms per unroll", setting)
                    yield informs(f"gpu/actor_{network}_B{streams}_learn_ms", learn, "ms per unroll", setting)
            yield informs(f"gpu/actor_{network}_B{streams}_steps_per_second", speeds["always"], "steps/s", setting)
            ratio = speeds["always"] / speeds["never"]
            yield at_least(f"gpu/actor_{network}_B{streams}_graphs", ratio, 1.0, "x the speed", setting)
            torch.cuda.empty_cache()


def _unroll(actor: Actor, version: int) -> tuple[float, float, float]:
    """Steps per second, and milliseconds of acting and learning."""
    weights = WeightsSnapshot(version, actor.layout, actor.parameters.vector.cpu())
    started = time.perf_counter()
    contribution = actor.unroll(weights)
    elapsed, seen = time.perf_counter() - started, contribution.statistics
    return contribution.header.num_steps / elapsed, 1e3 * seen.act_time_s, 1e3 * seen.learn_time_s


def _learner(name: str, up: float, copied: float) -> Iterator[Result]:
    for network in ("nature", "impala"):
        config = sized(load_train([*BREAKOUT, f"network={network}", "learner.device=cuda"]), 1)
        layout, vector = initial_weights(config, describe_environment(config, print))
        contribution = _actor(4, f"network={network}").unroll(WeightsSnapshot(0, layout.fingerprint, vector))
        learner = GradientPlan(config.learner, layout, None, 10**9).begin(vector)
        count = 0

        def add() -> None:
            nonlocal count
            count += 1
            learner.add(replace(contribution, header=replace(contribution.header, sequence=count)))  # noqa: B023

        def update() -> None:
            add()
            learner.finish_round()  # noqa: B023

        added, updated, sent = median_s(add), median_s(update), median_s(learner.snapshot)
        setting = (
            f"{name}; learner of R2AC, {network} stem, N=512, {layout.size:,} parameters, {config.learner.optimizer}"
        )
        yield informs(f"gpu/learner_{network}_adds_per_second", 1 / added, "contributions/s", setting)
        yield informs(f"gpu/learner_{network}_add_upload", _bytes(layout) / up / added, "share of the upload", setting)
        yield informs(f"gpu/learner_{network}_update_ms", 1e3 * (updated - added), "ms", setting)
        moved = 6 * _bytes(layout)  # gradient, moments and weights, read and written
        yield informs(f"gpu/learner_{network}_update_bandwidth", moved / copied / (updated - added), "share", setting)
        yield informs(f"gpu/learner_{network}_publish_ms", 1e3 * sent, "ms", setting)


def _bytes(layout: ParameterLayout) -> int:
    return 4 * layout.size


RUNS: dict[str, tuple[int, tuple[str, ...]]] = {
    "cpu": (0, ()),
    "one_actor": (1, ("actors.pipeline=2", "actors.num_envs=256")),
    "one_actor_without_graphs": (1, ("actors.pipeline=2", "actors.num_envs=256", "actors.cuda_graphs=never")),
    "three_actors": (3, ("actors.pipeline=2", "actors.num_envs=128")),
}
"""Actors on the device, none for one per core; and words."""


def _training(name: str, seconds: float) -> Iterator[Result]:
    """Whole training on Breakout through Ray, on this machine's cores without and with its GPU."""
    cores = available_cores()
    configs = {which: _run_config(cores, *run) for which, run in RUNS.items()}
    setting = f"{name}; Breakout, nature stem, N=512, T=20, {cores} cores, Ray"
    with ray_cluster(configs["cpu"], cores):
        for which, config in configs.items():
            torch.cuda.empty_cache()  # this process's own share is for those that are measured
            speed = _training_speed(config, seconds)
            yield informs(f"gpu/train_{which}_steps_per_second", speed, "steps/s", setting)


def _run_config(cores: int, actors: int, words: tuple[str, ...]) -> TrainConfig:
    if not actors:
        words = (*words, f"fleet.num_actors={cores - 1}", "actors.num_envs=16")
    else:
        of_each = max(1, (cores - 1) // actors)
        share = round(0.9 / (actors + 1), 3)
        words = (
            *words,
            *(f"fleet.num_actors={actors}", f"env.threads={of_each}", f"actors.num_cpus={of_each}"),
            *("actors.device=cuda", f"actors.num_gpus={share}", "learner.device=cuda", f"learner.num_gpus={share}"),
        )
    return sized(load_train([*BREAKOUT, "network=nature", "fleet.max_restarts=0", *words]), cores)


def _training_speed(config: TrainConfig, seconds: float) -> float:
    actors, started, before = config.fleet.num_actors or 1, 0.0, 0
    with training(config) as (fleet, learner):
        received = 0
        for progress in asynchronous(fleet, learner, in_flight=1):
            for receipt in progress.receipts:
                received += 1
                if received == 5 * actors:  # graphs have been recorded
                    started, before = time.perf_counter(), receipt.counters.agent_steps
                elif received > 5 * actors and time.perf_counter() - started >= seconds:
                    return (receipt.counters.agent_steps - before) / (time.perf_counter() - started)
    raise AssertionError("a schedule has no end")
