"""The whole program on a real Ray: processes that are killed in the middle of a run, signals, and the cluster's limits."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from every_algorithm import IMPALA, KNOWS, with_every_algorithm
from patience import patience, wait_until

WORDS = [
    "experiment=tmaze",
    "env.corridor=10",
    "fleet.num_actors=2",
    "actors.num_envs=8",
    "actors.unroll=5",
    "actors.num_cpus=0.5",
    "network.num_units=16",
    "logging.interval_s=0.5",
    "logging.checkpoint_interval_s=1",
    "logging.terminal=plain",
    "logging.tensorboard=false",
    "fleet.object_store_bytes=80_000_000",
]


@contextmanager
def training(run_dir: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "r2ac.commands.train", *WORDS, f"run_dir={run_dir}", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def summary(run_dir: Path) -> dict[str, float]:
    path = run_dir / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {}


def both_step(row: dict[str, float]) -> bool:
    return all(row.get(f"actor_steps_per_second/{actor_id}", 0) > 0 for actor_id in (0, 1))


def newest_checkpoint(run_dir: Path) -> str:
    return max(path.name for path in (run_dir / "checkpoints").iterdir())


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(process: subprocess.Popen[str], what: str, condition: Callable[[], bool]) -> None:
    def met() -> bool:
        assert process.poll() is None, f"ended while waiting for {what}: {process.communicate()[0][-3000:]}"
        return condition()

    wait_until(what, met)


def workers(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith(f"ray::{name}"):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@with_every_algorithm
def test_a_run_survives_the_death_of_an_actor_and_of_the_learner_and_its_counters_add_up(
    algorithm: tuple[str, ...], tmp_path: Path
):
    with training(tmp_path, "total_steps=100_000_000", *algorithm) as process:
        wait_for(process, "progress", lambda: summary(tmp_path).get("agent_steps", 0) > 2000)
        workers(process, "ActorProcess")[0].kill()
        wait_for(process, "the actor's restart", lambda: summary(tmp_path).get("actor_restarts") == 1)
        at_restart = summary(tmp_path)["agent_steps"]
        wait_for(process, "progress of both actors", lambda: both_step(summary(tmp_path)))
        workers(process, "LearnerProcess")[0].kill()
        wait_for(process, "the learner's restart", lambda: summary(tmp_path).get("learner_restarts") == 1)
        version = summary(tmp_path)["policy_version"]
        wait_for(process, "new updates", lambda: summary(tmp_path)["policy_version"] > version + 20)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=patience(60))
        assert process.returncode == 0, output[-3000:]
    final = summary(tmp_path)
    assert final["agent_steps"] > at_restart
    assert (final["actor_restarts"], final["learner_restarts"], final["contributions_refused"]) == (1, 1, 0)
    assert final["agent_steps"] == 8 * 5 * final["contributions_accepted"]
    assert "actor" in output
    assert "learner restarted from the newest checkpoint" in output
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("agent_steps", "policy_version", "episodes", "contributions_accepted"):
        values = [line[name] for line in lines]
        assert values == sorted(values), f"{name} went back"

    assert any(line.get(KNOWS[algorithm]) is not None for line in lines)

    with training(tmp_path, f"total_steps={int(final['agent_steps']) + 2000}", *algorithm) as process:
        output, _ = process.communicate(timeout=patience(120))
        assert process.returncode == 0, output[-3000:]
    assert "going on at" in output
    assert summary(tmp_path)["agent_steps"] >= final["agent_steps"] + 2000
    assert summary(tmp_path)["actor_restarts"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "most", "least"),
    [
        (("fleet.num_actors=2", "actors.num_envs=8", "learner.target_lag=8"), 1.0, 1.0),
        pytest.param((*IMPALA, "fleet.num_actors=2", "actors.num_envs=8"), 3.0, 2.0, marks=pytest.mark.soak),
        pytest.param(
            ("fleet.num_actors=9", "actors.num_cpus=0.2", "actors.num_envs=4"), 4.5, 2.0, marks=pytest.mark.soak
        ),
    ],
    ids=["small", "impala", "nine"],
)
def test_contributions_are_as_late_as_the_run_says_at_its_start(
    words: tuple[str, ...], most: float, least: float, tmp_path: Path
):
    with training(tmp_path, "total_steps=60_000", "logging.interval_steps=60_000", *words) as process:
        output, _ = process.communicate(timeout=patience(200))
    assert process.returncode == 0, output[-3000:]
    assert f"made with weights that are on average at most {most:.1f} updates old" in output
    assert 0.9 * least <= summary(tmp_path)["policy_lag_mean"] <= 1.1 * most


@pytest.mark.slow
@with_every_algorithm
def test_an_actor_that_hangs_is_replaced_and_holds_up_neither_checkpoints_nor_the_others(
    algorithm: tuple[str, ...], tmp_path: Path
):
    limit_s = round(patience(4))
    words = [f"fleet.unroll_timeout_s={limit_s}", *algorithm]
    with training(tmp_path, "total_steps=100_000_000", *words) as process:
        wait_for(process, "progress", lambda: summary(tmp_path).get("agent_steps", 0) > 2000)
        stopped = workers(process, "ActorProcess")[0]
        stopped.suspend()  # alive, and silent: with a checkpoint every second, one waits for it too
        wait_for(process, "the actor's restart", lambda: summary(tmp_path).get("actor_restarts") == 1)
        saved = newest_checkpoint(tmp_path)
        wait_for(process, "progress of both actors", lambda: both_step(summary(tmp_path)))
        wait_for(process, "a new checkpoint", lambda: newest_checkpoint(tmp_path) > saved)
        wait_for(process, "the end of the process that hung", lambda: not alive(stopped))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=patience(60))
    assert process.returncode == 0, output[-3000:]
    assert f"no unroll for {limit_s} s (fleet.unroll_timeout_s)" in output


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["async", pytest.param("sync", marks=pytest.mark.soak)])
@with_every_algorithm
def test_a_learner_that_hangs_is_replaced_like_one_that_died(algorithm: tuple[str, ...], mode: str, tmp_path: Path):
    limit_s = round(patience(4))
    words = [f"fleet.learner_timeout_s={limit_s}", f"learner.mode={mode}", *algorithm]
    with training(tmp_path, "total_steps=100_000_000", *words) as process:
        wait_for(process, "progress", lambda: summary(tmp_path).get("agent_steps", 0) > 2000)
        (stopped,) = workers(process, "LearnerProcess")
        stopped.suspend()  # alive, and silent: with a checkpoint every second, one may wait for it too
        wait_for(process, "the learner's restart", lambda: summary(tmp_path).get("learner_restarts") == 1)
        version = summary(tmp_path)["policy_version"]
        wait_for(process, "new updates", lambda: summary(tmp_path)["policy_version"] > version + 20)
        wait_for(process, "the end of the process that hung", lambda: not alive(stopped))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=patience(60))
    assert process.returncode == 0, output[-3000:]
    said = f"learner restarted from the newest checkpoint (no answer for {limit_s} s (fleet.learner_timeout_s))"
    assert said in output
    final = summary(tmp_path)
    assert (final["learner_restarts"], final["actor_restarts"], final["contributions_refused"]) == (1, 0, 0)
    assert final["agent_steps"] == 8 * 5 * final["contributions_accepted"]
    assert int(newest_checkpoint(tmp_path)) == final["agent_steps"]


@pytest.mark.soak
@with_every_algorithm
def test_a_stop_does_not_wait_for_the_round_of_an_actor_that_hangs(algorithm: tuple[str, ...], tmp_path: Path):
    words = ["learner.mode=sync", "fleet.unroll_timeout_s=100000", *algorithm]  # the stop does not wait for that
    with training(tmp_path, "total_steps=100_000_000", *words) as process:
        wait_for(process, "progress", lambda: summary(tmp_path).get("agent_steps", 0) > 1000)
        workers(process, "ActorProcess")[0].suspend()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=patience(100))
    assert process.returncode == 0, output[-3000:]
    assert int(newest_checkpoint(tmp_path)) == summary(tmp_path)["agent_steps"]


@pytest.mark.slow
def test_a_local_ray_listens_on_the_loopback_interface_only_and_its_run_saves_at_an_interrupt(tmp_path: Path):
    with training(tmp_path, "total_steps=100_000_000") as process:
        wait_for(process, "progress", lambda: summary(tmp_path).get("agent_steps", 0) > 1000)
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = {
            connection.laddr.ip
            for member in tree
            for connection in member.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everyone hears it
        output, _ = process.communicate(timeout=patience(60))
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert process.returncode == 0, output[-3000:]
    assert "Traceback" not in output
    assert (tmp_path / "checkpoints" / f"{int(summary(tmp_path)['agent_steps']):012d}" / "manifest.json").is_file()


@pytest.mark.slow
def test_more_actors_than_the_cluster_can_ever_place_are_reported_and_not_waited_for(tmp_path: Path):
    words = ["fleet.num_actors=500", "fleet.placement_timeout_s=1", "fleet.start_timeout_s=100000"]
    with training(tmp_path, *words) as process:
        output, _ = process.communicate(timeout=patience(90))
    assert process.returncode == 2
    assert "500 actors and the learner need 250 CPU, but the cluster has" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_process_that_ray_ends_for_want_of_memory_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0")  # every machine's memory counts as full
    with training(tmp_path, "fleet.max_restarts=1") as process:
        output, _ = process.communicate(timeout=patience(90))
    assert process.returncode == 2, output[-3000:]
    assert "Ray ended its process because the memory of its machine was nearly used up" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_bug_in_an_actor_stops_the_run_with_its_traceback(tmp_path: Path):
    # A continuous policy head cannot act in a discrete maze: not an environment's failure, so it must not be retried.
    broken = tmp_path / "site"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import envs.tmaze\n"
        "def step(self, actions):\n"
        "    raise TypeError('a bug, not a failure')\n"
        "envs.tmaze.TMaze.step = step\n"
    )
    command = [sys.executable, "-m", "r2ac.commands.train", *WORDS, f"run_dir={tmp_path}/run"]
    environment = {**os.environ, "PYTHONPATH": str(broken)}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(120), env=environment, check=False
    )
    assert result.returncode == 1
    assert "a bug, not a failure" in result.stderr
    assert "restarted" not in result.stdout + result.stderr


@pytest.mark.seconds
def test_an_unreachable_cluster_is_one_line(tmp_path: Path):
    with training(tmp_path, "fleet.address=127.0.0.1:1") as process:
        output, _ = process.communicate(timeout=patience(120))
    assert process.returncode == 2
    assert "error: fleet.address=127.0.0.1:1: expected the address of a running Ray cluster" in output
    assert "but nothing (Connection refused) answers there" in output


@pytest.mark.seconds
def test_a_port_in_use_is_one_line_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with training(tmp_path, f"fleet.metrics_port={port}") as process:
            output, _ = process.communicate(timeout=patience(60))
    assert process.returncode == 2
    assert f"error: fleet.metrics_port={port} cannot be used on this machine" in output
    assert "Traceback" not in output
    assert not (tmp_path / "ray").exists(), "Ray was started for nothing"


LICENSED = """
import os
import gymnasium
from gymnasium.spaces import Box, Discrete

class Licensed(gymnasium.Env):
    observation_space, action_space = Box(0, 1, (1,)), Discrete(2)

    def __init__(self):
        if os.path.exists("expired"):
            raise RuntimeError("no licence")
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        return [0], {}

    def step(self, action):
        self.steps += 1
        if self.steps == 20:
            open("expired", "w").close()
            os._exit(3)
        return [0], 1, False, False, {}

gymnasium.register("Licensed-v0", Licensed)
"""


@pytest.mark.soak
def test_an_environment_of_the_current_folder_is_found_by_actors_and_its_end_is_named_in_one_line(tmp_path: Path):
    (tmp_path / "licensed.py").write_text(LICENSED)
    program = Path(sysconfig.get_path("scripts")) / "rtrl-train"  # whose path lacks the current folder
    words = [word for word in WORDS if word.split(".")[0] not in ("experiment=tmaze", "env")]
    words += ["fleet.num_actors=1", "actors.num_envs=2", "fleet.max_restarts=2", "network.encoder=none"]
    result = subprocess.run(
        [program, "env=gym/licensed:Licensed-v0", *words, "run_dir=run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(200),
        check=False,
    )
    assert result.returncode == 2
    first = "gym/licensed:Licensed-v0 failed at a step: it ended its process with os._exit(3)"
    assert f"actor 0 restarted (1 restarts so far): {first}" in result.stdout
    second = "gym/licensed:Licensed-v0 could not be made: RuntimeError no licence"
    assert f"actor 0 restarted (2 restarts so far): {second}" in result.stdout
    gave_up = "gave up after 2 actor restarts within an hour (fleet.max_restarts); the first one was because"
    assert result.stderr.splitlines() == [f"error: {gave_up}: {first}"]
