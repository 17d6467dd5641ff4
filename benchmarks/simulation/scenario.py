"""One fleet of light actors, and what a run with it costs: the training loop is the real one, from its schedule to its rows."""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from actors.fleet import FleetState
from benchmarks.simulation.light import HostedFleet, NodesOfOneMachine, Recipe
from conf.load import load_train
from conf.schema import TrainConfig
from learner.algorithms import find_algorithm
from learner.learner import GradientPlan
from learner.ray_learner import RayLearner
from learner.receipts import Counters
from r2ac.cluster.session import ray_cluster
from r2ac.monitoring.sinks import Sinks
from r2ac.monitoring.tally import Tally
from r2ac.training.build import Machinery, Start, describe_environment, initial_weights
from r2ac.training.loop import RunHooks, TrainingRun
from r2ac.training.sizing import sized

WARM_UP_S, SAMPLE_S = 10.0, 0.25
OURS, LEARNER, AGGREGATORS, HOSTS, RAY = "driver", "learner", "aggregators", "hosts", "ray"
PARTS = {"ray::LearnerProcess": LEARNER, "ray::AggregatorProcess": AGGREGATORS, "ray::Host": HOSTS}


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one fleet. Rates are per second, ``cores`` is seconds of CPU per second."""

    actors: int
    added_up: bool
    nodes: int
    asked: float
    """Contributions that the actors would make if nothing held them back."""
    parameters: int
    segments: int
    """Per update."""
    contributions: float
    messages: float
    """To the learner."""
    updates: float
    bytes: float
    """At the learner."""
    lag: float
    cores: dict[str, float]
    growth: float
    """Of the driver's memory, in MB per minute."""
    twice: int
    """Contributions that were dropped or refused."""


class _Moment:
    """What was counted, and when."""

    def __init__(self, counters: Counters, messages: int) -> None:
        self.at, self.messages = time.monotonic(), messages
        self.counters = Counters(**{name: getattr(counters, name) for name in Counters.__slots__})
        self.cpu: dict[str, float] = dict.fromkeys((OURS, LEARNER, AGGREGATORS, HOSTS, RAY), 0.0)
        times = psutil.Process().cpu_times()
        self.cpu[OURS] = times.user + times.system
        for process in psutil.Process().children(recursive=True):
            try:
                times, line = process.cpu_times(), process.cmdline()[:1]
            except psutil.Error:
                continue
            part = next((part for name, part in PARTS.items() if line and line[0].startswith(name)), RAY)
            self.cpu[part] += times.user + times.system


class _CountingLearner(RayLearner[Any]):
    messages = 0

    def send(self, contribution: Any) -> None:
        self.messages += 1
        super().send(contribution)


class _Watch(RunHooks):
    """Ends the run when it was looked at long enough."""

    def __init__(self, learner: _CountingLearner, tally: Tally, seconds: float) -> None:
        self._learner, self._tally, self._seconds = learner, tally, seconds
        self._begun: float | None = None
        self.moments: list[_Moment] = []
        self._memory: list[tuple[float, int]] = []
        self._process = psutil.Process()

    @property
    def growth(self) -> float:
        """Of this process, from the middle third to the last, in MB per minute. Rows come every few seconds, and what they tell of is kept
        until then: so it is the lowest of each that is compared."""
        third = len(self._memory) // 3
        parts = self._memory[third : 2 * third], self._memory[2 * third :]
        (before, least), (after, then) = (min(part, key=lambda sample: sample[1]) for part in parts)
        return (then - least) / 2**20 / (after - before) * 60

    def should_stop(self) -> bool:
        if self._tally.counters.updates == 0:
            return False
        now = time.monotonic()
        self._begun = self._begun or now
        if not self._memory or now - self._memory[-1][0] > SAMPLE_S:
            self._memory.append((now, self._process.memory_info().rss))
        if now >= self._begun + WARM_UP_S + len(self.moments) * self._seconds and len(self.moments) < 2:
            self.moments.append(_Moment(self._tally.counters, self._learner.messages))
        return len(self.moments) == 2


def measured(actors: int, *, added_up: bool, rate: float, node: int, seconds: float, units: int) -> Figures:
    """One fleet, in this process and others on a Ray of its own."""
    config = configured(actors, added_up=added_up, units=units)
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    plan = find_algorithm(config.algorithm).plan(config, spec, layout)
    assert isinstance(plan, GradientPlan)
    state = plan.first_state(vector)
    tally = Tally(spec.levels, config.total_steps, own_processes=True)
    sinks = Sinks([], lambda line: None)
    with ExitStack() as stack:
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(ray_cluster(config, actors, 4 * layout.size))
        recipe = Recipe(config, layout, 1 / rate)
        fleet = NodesOfOneMachine(recipe, actors, plan.adder(), node) if added_up else HostedFleet(recipe, actors)
        stack.callback(fleet.close)
        learner = _CountingLearner(plan, state, newest_state=lambda: state, limits=config.fleet, announce=print)
        stack.callback(learner.close)
        sinks.begin(0, 0.0, {})
        watch = _Watch(learner, tally, seconds)
        start, machinery = Start(state, FleetState(), {"actor": 0, "learner": 0}), Machinery(config, fleet, learner)
        row = TrainingRun(config, layout, run_dir, start, machinery, tally, sinks, watch).to_its_end()
    begun, end = watch.moments
    took = end.at - begun.at
    counted = {
        name: (getattr(end.counters, name) - getattr(begun.counters, name)) / took
        for name in ("accepted", "updates", "wire_bytes")
    }
    assert config.learner.batch_segments is not None
    return Figures(
        actors=actors,
        added_up=added_up,
        nodes=-(-actors // node),
        asked=actors * rate,
        parameters=layout.size,
        segments=config.learner.batch_segments,
        contributions=counted["accepted"],
        messages=(end.messages - begun.messages) / took,
        updates=counted["updates"],
        bytes=counted["wire_bytes"],
        lag=float(row["policy_lag_mean"] or 0.0),
        cores={part: (end.cpu[part] - begun.cpu[part]) / took for part in end.cpu},
        growth=watch.growth,
        twice=end.counters.dropped + end.counters.refused,
    )


def configured(actors: int, *, added_up: bool, units: int) -> TrainConfig:
    words = [
        *("experiment=tmaze", "actors.num_envs=1", "actors.unroll=20", f"network.num_units={units}"),
        *(f"fleet.num_actors={actors}", "actors.num_cpus=0", "logging.interval_s=5", "total_steps=1_000_000_000_000"),
        *("logging.checkpoint_interval_s=1e6", f"fleet.aggregate={'always' if added_up else 'never'}"),
        "fleet.object_store_bytes=2_000_000_000",
    ]
    return sized(load_train(words), actors)
