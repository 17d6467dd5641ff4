"""A run on a cluster that grows and shrinks: its actors come and go with the nodes, and nothing is counted twice or blamed on anybody."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from every_algorithm import IMPALA
from patience import patience, wait_until
from ray_nodes import Nodes, cluster

pytestmark = pytest.mark.slow

TRAIN = [
    *("experiment=tmaze", "env.corridor=10", "total_steps=100_000_000", "fleet.num_actors=auto", "actors.num_envs=8"),
    *("actors.unroll=5", "network.num_units=16", "learner.target_lag=1", "logging.interval_s=0.5"),
    *("logging.checkpoint_interval_s=1", "logging.terminal=plain", "logging.tensorboard=false"),
]
TWO = {"num_cpus": 2, "num_gpus": 0}


class Run:
    def __init__(self, process: subprocess.Popen[str], folder: Path, log: Path) -> None:
        self.process, self.folder, self._log = process, folder, log

    def row(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        def met() -> bool:
            assert self.process.poll() is None, f"ended while waiting for {what}: {self.log()[-3000:]}"
            return condition()

        wait_until(what, met, details=lambda: self.log()[-3000:])

    def wait_for_actors(self, count: int) -> None:
        self.wait_for(f"{count} actors", lambda: self.row().get("actors_alive") == count)

    def wait_for_updates(self, count: int = 20) -> None:
        version = self.row()["policy_version"]
        self.wait_for("updates", lambda: self.row()["policy_version"] > version + count)

    def wait_for_batches_of(self, contributions: int) -> None:
        """As written down for the user, and as the learner makes them."""

        def are_made() -> bool:
            before = self.row()
            self.wait_for("fifty updates", lambda: self.row()["updates"] >= before["updates"] + 50)
            after = self.row()
            accepted = after["contributions_accepted"] - before["contributions_accepted"]
            return abs(accepted / (after["updates"] - before["updates"]) - contributions) < 0.2

        sized = self.folder / "sized.yaml"
        self.wait_for(
            f"batches of {contributions}",
            lambda: yaml.safe_load(sized.read_text())["learner"]["batch_segments"] == 8 * contributions,
        )
        self.wait_for(f"updates of {contributions} contributions", are_made)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(patience(60))
        assert self.process.returncode == 0, self.log()[-3000:]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with cluster() as nodes:
        yield nodes


@contextmanager
def training(nodes: Nodes, tmp_path: Path, *words: str, common: Sequence[str] = TRAIN) -> Iterator[Run]:
    log, folder = tmp_path / "log.txt", tmp_path / "run"
    command = [sys.executable, "-m", "r2ac.commands.train", *common, f"fleet.address={nodes.address}"]
    command += [f"run_dir={folder}", *words]
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=nodes.environment, text=True) as process,
    ):
        try:
            yield Run(process, folder, log)
        finally:
            process.kill()


def processes_of(nodes: Nodes, name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(nodes.process.pid).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{name}"):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("algorithm", "of_two", "of_four"),
    [((), 1, 3), pytest.param(IMPALA, 3, 5, marks=pytest.mark.soak)],
    ids=["r2ac", "impala"],
)
def test_actors_come_and_go_with_the_nodes(
    algorithm: tuple[str, ...], of_two: int, of_four: int, nodes: Nodes, tmp_path: Path
) -> None:
    words = ("fleet.min_actors=2", f"fleet.placement_timeout_s={patience(100):.0f}", *algorithm)
    with training(nodes, tmp_path, *words) as run:
        # The head is the only node that the driver can be of, and the one that stays: its learner is there too.
        run.wait_for("a look at an empty cluster", lambda: "waiting for nodes with room for" in run.log())
        nodes.add("first", **TWO)
        run.wait_for_actors(2)
        run.wait_for_updates()
        nodes.add("second", **TWO)
        run.wait_for_actors(4)
        run.wait_for("all of them", lambda: all(run.row().get(f"actor_steps_per_second/{n}", 0) > 0 for n in range(4)))
        run.wait_for_batches_of(of_four)
        processes_of(nodes, "LearnerProcess")[0].kill()
        run.wait_for("the learner's restart", lambda: run.row().get("learner_restarts") == 1)
        run.wait_for_batches_of(of_four)
        nodes.remove("first")
        run.wait_for_actors(2)
        run.wait_for_batches_of(of_two)
        nodes.remove("second")
        run.wait_for_actors(0)
        nodes.add("third", **TWO)
        run.wait_for_actors(2)
        run.wait_for_updates()
        assert run.row()["actor_restarts"] == 0
        processes_of(nodes, "ActorProcess")[0].kill()
        run.wait_for("a restart that counts", lambda: run.row().get("actor_restarts") == 1)
        run.wait_for_actors(2)
        run.wait_for_updates()
        run.stop()
    row = run.row()
    assert (row["actor_restarts"], row["learner_restarts"], row["contributions_refused"]) == (1, 1, 0)
    assert row["agent_steps"] == 8 * 5 * row["contributions_accepted"]
    # Together or one by one, as they are noticed.
    assert sum(map(int, re.findall(r"(\d+) actors have left with their nodes", run.log()))) == 4
    assert "2 actors are started on nodes that have room for them" in run.log()
    assert f"4 actors: an update of the weights for every {40 * of_four} steps" in run.log()


BREAKS = """
import os
import gymnasium
import numpy as np

class Breaks(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        if "NOTHING_IS_THERE" in os.environ:
            raise RuntimeError("a file is missing here")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, bool(self.np_random.random() < 0.1), False, {}

gymnasium.register("Breaks-v0", Breaks)
"""


def test_a_node_on_which_nothing_starts_does_not_hold_up_the_others(tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text(BREAKS)
    common = [word for word in TRAIN if not word.startswith(("experiment", "env."))]
    words = ("env=gym/breaks:Breaks-v0", "network.encoder=none", "fleet.max_restarts=0")
    with cluster(PYTHONPATH=str(tmp_path)) as nodes:
        nodes.add("good", **TWO)
        with training(nodes, tmp_path, *words, common=common) as run:
            run.wait_for_actors(2)
            nodes.add("bad", env_vars={"NOTHING_IS_THERE": "1"}, **TWO)
            run.wait_for("the cause", lambda: "could not start on a node (" in run.log())
            run.wait_for_updates()
            assert "a file is missing here" in run.log()
            assert (run.row()["actors_alive"], run.row()["actor_restarts"]) == (2, 0)
            run.stop()


def test_a_cluster_without_room_is_said_and_a_mistake_is_reported_as_itself(nodes: Nodes, tmp_path: Path) -> None:
    with training(nodes, tmp_path) as run:
        run.wait_for("its first words", lambda: "at most 5 s" in run.log())
        run.process.terminate()
        assert run.process.wait(patience(20)) == 0
    assert "SIGTERM: stopped before training began" in run.log()
    words = ("fleet.min_actors=3", "fleet.placement_timeout_s=1")
    nodes.add("small", **TWO)
    with training(nodes, tmp_path, *words) as run:
        assert run.process.wait(patience(90)) == 2
    said = "error: fleet.min_actors=3, but the cluster has room for 2: it has 2 CPU and 0 GPU (waited 1 s)"
    assert said in run.log()
    assert "Traceback" not in run.log()
    words = ("env.corridor=7", "actors.device=cuda:77")
    with training(nodes, tmp_path, *words) as run:
        assert run.process.wait(patience(90)) == 2
    assert "error: an actor could not start: " in run.log()
    assert "cuda:77" in run.log()
    assert "Traceback" not in run.log()
