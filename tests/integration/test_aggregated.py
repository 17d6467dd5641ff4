"""Contributions that are added up on their actors' nodes: the same training, and whoever dies costs what is promised and no more."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from patience import patience, wait_until
from ray import cloudpickle
from ray_nodes import Nodes, cluster

from actors.fleet import FinishedUnroll, FleetError, FleetState
from conf.load import load_train
from conf.schema import TrainConfig
from learner.aggregated_fleet import AggregatedFleet
from learner.algorithms import find_algorithm
from learner.schedules import POLL_S
from r2ac.cluster.session import ray_cluster
from r2ac.persistence import checkpoint as checkpoints
from r2ac.training.build import describe_environment, initial_weights
from r2ac.training.sizing import sized
from rtrl_core import WeightsSnapshot

pytestmark = pytest.mark.slow
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors' processes do not find this file

TRAIN = [
    *("experiment=tmaze", "env.corridor=10", "actors.num_envs=4", "actors.unroll=5", "network.num_units=16"),
    *("logging.terminal=plain", "logging.tensorboard=false", "learner.warmup_updates=0"),
]
ALONE = ["fleet.object_store_bytes=80_000_000", "actors.num_cpus=0.25", "fleet.num_actors=5"]
SAME_RATE = ("learner.learning_rate=0.001", "learner.final_learning_rate=0.001")
"""Otherwise it would depend on ``total_steps``."""
ENDLESS = ["total_steps=100_000_000", "logging.interval_s=0.5", "logging.checkpoint_interval_s=1"]


def trained(run_dir: Path, *words: str) -> tuple[torch.Tensor, dict[str, Any], str]:
    """Weights and last row of a run on this machine that came to its end, and what it said."""
    command = [sys.executable, "-m", "r2ac.commands.train", *TRAIN, *ALONE, *words, f"run_dir={run_dir}"]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patience(240), check=False
    )
    assert result.returncode == 0, result.stdout[-3000:]
    row = json.loads((run_dir / "summary.json").read_text())
    return checkpoints.load(checkpoints.find(run_dir)).vector, row, result.stdout


@pytest.mark.parametrize("mode", ["sync", pytest.param("lockstep", marks=pytest.mark.soak)])
def test_runs_that_repeat_are_the_same_whether_contributions_are_added_up_or_not(mode: str, tmp_path: Path):
    words = (f"learner.mode={mode}", "total_steps=4_000", "logging.interval_steps=1_000", "seed=3", *SAME_RATE)
    apart, row, _ = trained(tmp_path / "apart", *words, "fleet.aggregate=never")
    if mode == "sync":  # where a run that goes on from a checkpoint is the same, too
        first, _, _ = trained(tmp_path / "together", *words, "total_steps=2_000", "fleet.aggregate=always")
        assert not torch.equal(first, apart)
    together, summed_row, _ = trained(tmp_path / "together", *words, "fleet.aggregate=always")
    assert torch.equal(apart, together)
    for name in ("agent_steps", "updates", "contributions_accepted", "episodes", "episode_return_mean"):
        assert row[name] == summed_row[name]
    assert row["contributions_accepted"] == 5 * row["updates"]


def test_a_run_as_its_contributions_come_is_as_late_as_it_says(tmp_path: Path):
    words = ("total_steps=40_000", "logging.interval_steps=40_000", "learner.target_lag=4", "fleet.aggregate=always")
    _, row, said = trained(tmp_path, *words)
    assert row["contributions_accepted"] * 4 * 5 == row["agent_steps"]
    assert "made with weights that are on average at most 3.3 updates old" in said, said
    assert 0 < row["policy_lag_mean"] <= 3.4
    assert row["contributions_dropped"] == row["contributions_refused"] == 0


class Run:
    """On the nodes of a cluster."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, log: Path, nodes: Nodes) -> None:
        self.process, self.folder, self._log, self._nodes = process, folder, log, nodes

    def row(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        def met() -> object:
            assert self.process.poll() is None, f"ended while waiting for {what}: {self.said()[-3000:]}"
            return condition()

        wait_until(what, met, details=lambda: self.said()[-3000:])

    def wait_for_updates(self, count: int = 20) -> None:
        version = self.row()["policy_version"]
        self.wait_for("updates", lambda: self.row()["policy_version"] > version + count)

    def wait_for_each(self, count: int) -> None:
        """So many actors, each of which sends something."""
        rates = "actor_steps_per_second/"

        def all_send() -> bool:
            sending = [name for name, rate in self.row().items() if name.startswith(rates) and (rate or 0) > 0]
            return len(sending) == count

        self.wait_for(f"{count} actors that send", all_send)

    def processes(self, name: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self._nodes.process.pid).children(recursive=True):
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{name}"):
                    found.append(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda process: process.pid)

    def stop(self) -> dict[str, Any]:
        """Ends it, with all counters right; its last row."""
        self.process.terminate()
        self.process.wait(patience(60))
        assert self.process.returncode == 0, self.said()[-3000:]
        row = self.row()
        assert row["agent_steps"] == 4 * 5 * row["contributions_accepted"]
        assert row["contributions_refused"] == 0
        assert "Traceback" not in self.said()
        return row


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with cluster() as nodes:
        yield nodes


@contextmanager
def training(nodes: Nodes, folder: Path, *words: str) -> Iterator[Run]:
    log = folder / "log.txt"
    command = [sys.executable, "-m", "r2ac.commands.train", *TRAIN, *ENDLESS, *words]
    command += [f"fleet.address={nodes.address}", f"run_dir={folder / 'run'}", "fleet.aggregate=always"]
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=nodes.environment, text=True) as process,
    ):
        try:
            yield Run(process, folder / "run", log, nodes)
        finally:
            process.kill()


def test_an_actor_an_aggregator_a_learner_and_a_node_die_and_training_goes_on(nodes: Nodes, tmp_path: Path):
    nodes.add("one", num_cpus=2, num_gpus=0)
    nodes.add("two", num_cpus=2, num_gpus=0)
    with training(nodes, tmp_path, "fleet.num_actors=4", "actors.num_cpus=1") as run:
        run.wait_for("progress", lambda: run.row().get("agent_steps", 0) > 2000)
        run.wait_for_each(4)
        assert len(run.processes("AggregatorProcess")) == 2
        run.processes("ActorProcess")[0].kill()
        run.wait_for("the actor's restart", lambda: run.row()["actor_restarts"] == 1)
        run.wait_for_each(4)
        run.processes("AggregatorProcess")[0].kill()
        run.wait_for("the aggregator's restart", lambda: run.row()["actor_restarts"] == 2)
        assert "the aggregator of actors" in run.said()
        run.wait_for_each(4)
        run.processes("LearnerProcess")[0].kill()
        run.wait_for("the learner's restart", lambda: run.row()["learner_restarts"] == 1)
        run.wait_for_updates()
        nodes.remove("two")
        run.wait_for("the restart of its aggregator, where there is no room", lambda: run.row()["actor_restarts"] >= 3)
        nodes.add("three", num_cpus=2, num_gpus=0)
        run.wait_for_each(4)
        run.wait_for_updates()
        version = run.row()["policy_version"]
        row = run.stop()
    assert row["policy_version"] >= version
    assert row["learner_restarts"] == 1


@pytest.mark.soak
def test_an_aggregator_that_hangs_is_replaced(nodes: Nodes, tmp_path: Path):
    nodes.add("one", num_cpus=2, num_gpus=0)
    words = ("fleet.num_actors=2", "actors.num_cpus=1", f"fleet.unroll_timeout_s={patience(20):.0f}")
    with training(nodes, tmp_path, *words) as run:
        run.wait_for("progress", lambda: run.row().get("agent_steps", 0) > 2000)
        (hung,) = run.processes("AggregatorProcess")
        hung.send_signal(signal.SIGSTOP)
        run.wait_for("its restart", lambda: run.row()["actor_restarts"] == 1)
        run.wait_for_each(2)
        run.stop()
        assert "(fleet.unroll_timeout_s)" in run.said()
        assert not hung.is_running()


@pytest.mark.soak
def test_aggregators_come_and_go_with_the_nodes_and_take_their_actors_along(nodes: Nodes, tmp_path: Path):
    nodes.add("one", num_cpus=2, num_gpus=0)
    words = ("fleet.num_actors=auto", "fleet.min_actors=2", f"fleet.placement_timeout_s={patience(100):.0f}")
    with training(nodes, tmp_path, *words) as run:
        run.wait_for("progress", lambda: run.row().get("agent_steps", 0) > 2000)
        run.wait_for("two actors", lambda: run.row().get("actors_alive") == 2)
        nodes.add("two", num_cpus=3, num_gpus=0)
        run.wait_for("five actors", lambda: run.row().get("actors_alive") == 5)
        run.wait_for_each(5)
        assert len(run.processes("AggregatorProcess")) == 2
        nodes.remove("two")
        run.wait_for("two actors", lambda: run.row().get("actors_alive") == 2)
        left = "3 actors have left with their nodes; 2 go on"
        run.wait_for("word of those that left", lambda: left in run.said())
        run.wait_for_updates()
        nodes.add("three", num_cpus=1, num_gpus=0)
        run.wait_for("three actors", lambda: run.row().get("actors_alive") == 3)
        run.wait_for_each(3)
        row = run.stop()
    assert row["actor_restarts"] == 0


LOCAL = [*TRAIN, *ALONE, "fleet.aggregate=always", "fleet.num_actors=2", "fleet.max_restarts=1"]


class Opened(NamedTuple):
    """A fleet of two actors behind one aggregator, in the cluster of this process."""

    fleet: AggregatedFleet[Any]
    said: list[str]
    weights: Any

    def finished(self) -> FinishedUnroll[Any]:
        """The next sum, with weights that stay the same."""
        found: list[FinishedUnroll[Any]] = []
        self.fleet.submit(0, self.weights)
        wait_until("a sum", lambda: found.extend(self.fleet.wait(POLL_S)) or found)
        return found[0]


@pytest.fixture(scope="module")
def local() -> Iterator[TrainConfig]:
    config = sized(load_train(LOCAL), 2)
    with ray_cluster(config, 2):
        yield config


@pytest.fixture
def open_local(local: TrainConfig) -> Iterator[Callable[..., Opened]]:
    spec = describe_environment(local, print)
    layout, vector = initial_weights(local, spec)
    algorithm = find_algorithm(local.algorithm)
    plan: Any = algorithm.plan(local, spec, layout)
    with ExitStack() as stack:

        def start(build: Any = None) -> Opened:
            said: list[str] = []
            build = build or partial(algorithm.worker, local)
            fleet = AggregatedFleet(local, 2, FleetState(), said.append, build, adder=plan.adder())
            stack.callback(fleet.close)
            return Opened(fleet, said, fleet.publish(WeightsSnapshot(0, layout.fingerprint, vector)))

        yield start


def test_an_actor_that_is_replaced_is_started_again_by_its_aggregator_and_told_of(
    open_local: Callable[..., Opened],
) -> None:
    opened = open_local()
    fleet = opened.fleet
    assert (fleet.member_ids, fleet.actor_ids, fleet.num_actors, fleet.restarts) == ([0], [0, 1], 2, 0)
    assert opened.finished().contribution is not None
    assert fleet.incarnations == {0: 0, 1: 0}
    fleet.replace(1, "its gradients are no good")
    opened.finished()
    assert (fleet.restarts, fleet.incarnations) == (1, {0: 0, 1: 1})
    assert opened.said == ["actor 1 restarted (1 restarts so far): its gradients are no good"]
    assert fleet.get_state().incarnations == {0: 0, 1: 1}


def test_too_many_restarts_behind_an_aggregator_end_the_run_in_one_line(open_local: Callable[..., Opened]) -> None:
    opened = open_local()
    opened.finished()
    opened.fleet.replace(1, "first")
    opened.finished()
    opened.fleet.replace(0, "second")
    with pytest.raises(FleetError, match=r"^gave up after 1 .* within an hour .*because: first$"):
        opened.finished()


def test_actors_that_cannot_start_behind_an_aggregator_are_the_line_that_they_would_be_without(
    open_local: Callable[..., Opened],
) -> None:
    def broken(identity: object, state: object) -> Any:
        raise ValueError("the level is not there")

    with pytest.raises(FleetError) as error:
        open_local(broken)
    assert str(error.value) == "an actor could not start: ValueError: the level is not there"
