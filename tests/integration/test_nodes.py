"""Nodes of a Ray cluster that vanish in the middle of a run: those of actors, and that of the learner with all weights it held."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from every_algorithm import with_every_algorithm
from patience import patience, wait_until
from ray_nodes import Nodes, cluster

pytestmark = pytest.mark.slow

# Every part of a run has a node of its own; one GPU that is not there stands for the learner's, whose arithmetic stays on the CPU.
ACTORS, LEARNER = {"num_cpus": 2, "num_gpus": 0}, {"num_cpus": 0, "num_gpus": 1}
TRAIN = [
    *("experiment=tmaze", "env.corridor=10", "total_steps=100_000_000", "fleet.num_actors=2", "actors.num_cpus=1"),
    *("actors.num_envs=8", "actors.unroll=5", "network.num_units=16", "learner.num_gpus=1"),
    *(
        "logging.interval_s=0.05",  # so that a row, with its questions to Ray, falls into every moment of a node's end
        "logging.checkpoint_interval_s=1",
        "logging.terminal=plain",
        "logging.tensorboard=false",
    ),
]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with cluster() as nodes:
        nodes.add("actors", **ACTORS)
        nodes.add("learner", **LEARNER)
        yield nodes


@with_every_algorithm
def test_a_run_survives_the_loss_of_any_node_but_its_own(algorithm: tuple[str, ...], nodes: Nodes, tmp_path: Path):
    summary = tmp_path / "run" / "summary.json"

    def row() -> dict[str, float]:
        return json.loads(summary.read_text()) if summary.exists() else {}

    log = tmp_path / "log.txt"
    command = [sys.executable, "-m", "r2ac.commands.train", *TRAIN, *algorithm]
    command += [f"fleet.address={nodes.address}", f"run_dir={tmp_path / 'run'}"]
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=nodes.environment) as process,
    ):

        def wait_for(what: str, condition: Callable[[], bool]) -> None:
            def met() -> bool:
                assert process.poll() is None, f"ended while waiting for {what}: {log.read_text()[-3000:]}"
                return condition()

            wait_until(what, met, details=lambda: log.read_text()[-3000:])

        try:
            wait_for("progress", lambda: row().get("agent_steps", 0) > 2000)
            nodes.add("learner", **LEARNER)
            wait_for("the learner's restart", lambda: row().get("learner_restarts", 0) >= 1)
            version = row()["policy_version"]
            wait_for("updates of the new learner", lambda: row()["policy_version"] > version + 20)
            nodes.add("actors", **ACTORS)
            wait_for("the actors' restarts", lambda: row().get("actor_restarts", 0) >= 2)
            version = row()["policy_version"]
            wait_for("updates from the new actors", lambda: row()["policy_version"] > version + 20)
        finally:
            process.terminate()
            process.wait(patience(60))
    assert process.returncode == 0, log.read_text()[-3000:]
    assert row()["learner_restarts"] == 1
    assert row()["contributions_refused"] == 0


@pytest.mark.soak
@with_every_algorithm
def test_a_learner_that_finds_no_place_again_ends_the_run_in_one_line_and_leaves_its_checkpoint(
    algorithm: tuple[str, ...], nodes: Nodes, tmp_path: Path
):
    checkpoints = tmp_path / "run" / "checkpoints"
    limit_s = round(patience(16))  # the first learner must be up within it
    command = [sys.executable, "-m", "r2ac.commands.train", *TRAIN, *algorithm, f"fleet.start_timeout_s={limit_s}"]
    command += [f"fleet.address={nodes.address}", f"run_dir={tmp_path / 'run'}"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=nodes.environment
    ) as process:
        try:

            def has_saved() -> bool:
                assert process.poll() is None, process.communicate()[1][-3000:]
                return checkpoints.exists() and len(list(checkpoints.iterdir())) >= 2

            wait_until("second checkpoint", has_saved)
            nodes.remove("learner")
            _, errors = process.communicate(timeout=limit_s + patience(90))
        finally:
            process.kill()
    assert process.returncode == 2, errors[-3000:]
    late = f"error: the learner was not up after {limit_s} s (fleet.start_timeout_s)"
    assert f"{late}: the cluster has 2 CPU and 0 GPU" in errors
    assert "Traceback" not in errors
    assert list(checkpoints.glob("*/manifest.json"))
