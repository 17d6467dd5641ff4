"""The compose stack, really built and run: ``make docker-test``. Needs a Docker engine; skipped where there is none."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import patience, wait_until

DOCKER = Path(__file__).parents[2] / "docker"


def engine_is_here() -> bool:
    if shutil.which("docker") is None:
        return False
    tries = (["docker", "info"], ["docker", "compose", "version"])
    return all(subprocess.run(words, capture_output=True, check=False).returncode == 0 for words in tries)


pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stack:
    """The compose project of this test, with ports, names and sizes of its own."""

    def __init__(self) -> None:
        self.prometheus_port = free_port()
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": "r2ac-test",
            "COMPOSE_PROFILES": "metrics,tensorboard",
            "R2AC_IMAGE": "r2ac:test",
            "RAY_DASHBOARD_PORT": str(free_port()),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "TENSORBOARD_PORT": str(free_port()),
            "TRAIN_OPTIONS": "experiment=tmaze total_steps=1000000000 logging.interval_s=2 logging.checkpoint_interval_s=5",
            "WORKER_CPUS": "1",
            "SHM_SIZE": "512m",
            "OBJECT_STORE_BYTES": "300000000",
        }

    def compose(self, *words: str) -> str:
        command = ["docker", "compose", "-f", str(DOCKER / "compose.yaml"), *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def log(self) -> str:
        return self.compose("logs", "--no-log-prefix", "learner")

    def query(self, expression: str) -> list[float]:
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?query={urllib.parse.quote(expression)}"
        with urllib.request.urlopen(url, timeout=patience(10)) as answer:
            return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        wait_until(what, condition, 180, pause_s=2, details=lambda: self.log()[-3000:])


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if not engine_is_here():
        pytest.skip("no Docker engine with the compose plugin answers on this machine")
    stack = Stack()
    try:
        stack.compose("build")
        stack.compose("up", "-d", "--wait", "--wait-timeout", f"{patience(240):.0f}")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "60")


def test_it_trains_and_prometheus_sees_it(stack: Stack) -> None:
    stack.wait_until(lambda: max(stack.query("ray_rtrl_agent_steps"), default=0) > 0, "agent steps in Prometheus")
    for name in ("steps_per_second", "policy_lag_mean", "contributions_accepted", "entropy", "actors_alive"):
        assert stack.query(f"ray_rtrl_{name}"), name
    assert stack.query("sum(up)") == [3.0]
    assert "object store is using /tmp" not in stack.compose("logs", "head", "worker", "learner")


def test_nothing_runs_as_root_and_nothing_listens_beyond_this_machine(stack: Stack) -> None:
    for service in ("head", "worker", "learner"):
        assert stack.compose("exec", "-T", service, "id", "-u").strip() == "1000"
    ports = [json.loads(line)["Publishers"] for line in stack.compose("ps", "--format", "json").splitlines() if line]
    published = [port for publishers in ports for port in publishers or [] if port["PublishedPort"]]
    assert published
    assert {port["URL"] for port in published} == {"127.0.0.1"}


def test_more_workers_bring_more_actors_and_the_run_goes_on(stack: Stack) -> None:
    stack.compose("up", "-d", "--scale", "worker=2", "--no-recreate")
    stack.wait_until(lambda: "2 actors: an update" in stack.log(), "the second worker's actor")
    stack.wait_until(lambda: max(stack.query("ray_rtrl_actors_alive"), default=0) == 2, "two actors in Prometheus")
    assert "going on at" not in stack.log()


def test_stopping_saves_and_starting_again_resumes(stack: Stack) -> None:
    stack.compose("stop")
    before = stack.log().count("going on at")
    stack.compose("up", "-d", "--scale", "worker=2")
    stack.wait_until(lambda: stack.log().count("going on at") > before, "the resumed run")


def test_a_worker_that_dies_is_back_and_the_run_never_stops(stack: Stack) -> None:
    # Before all actors stand, a death ends the attempt, and Docker starts the next one: not what is looked at here.
    stack.wait_until(lambda: "steps/s" in stack.log().rpartition("going on at")[2], "rows of the resumed run")
    kill = "import psutil; [p.kill() for p in psutil.process_iter(['name']) if p.info['name'] == 'raylet']"
    stack.compose("exec", "-T", "--index=1", "worker", "python", "-c", kill)
    before = max(stack.query("ray_rtrl_agent_steps"))
    stack.wait_until(lambda: max(stack.query("ray_rtrl_agent_steps"), default=0) > before + 5000, "more steps")
    stack.wait_until(lambda: "(healthy)" in stack.compose("ps", "worker"), "a healthy worker")
    time.sleep(patience(30))  # several looks at the nodes, of which Ray lists the dead one too
    assert "3 actors: an update" not in stack.log()
    assert not re.search(r"^(\x1b\[2K)?error:", stack.log(), re.MULTILINE)


def test_grafana_will_find_rays_own_dashboards(stack: Stack) -> None:
    assert "default_grafana_dashboard.json" in stack.compose("exec", "-T", "head", "ls", "/ray-dashboards")


def test_a_report_is_made_inside(stack: Stack) -> None:
    assert "report.html" in stack.compose(
        "exec", "-T", "head", "rtrl-report", "runs/tmaze", "--output", "runs/report.html"
    )


def test_a_job_is_submitted_from_inside(stack: Stack) -> None:
    words = "job_name=second experiment=tmaze fleet.num_actors=1 actors.num_cpus=0 total_steps=2000"
    output = stack.compose("exec", "-T", "head", "rtrl-submit", "target=ray_job", *words.split())
    assert "job second-1 succeeded" in output
