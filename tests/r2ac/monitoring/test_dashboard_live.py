"""A real Prometheus scrapes a real training run, and the dashboard's panels have something to show."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from patience import patience, wait_until

from r2ac.monitoring.dashboard import expressions

PROMETHEUS = shutil.which("prometheus")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus (package prometheus) is not installed here"),
]
HEADLINES = (
    "agent_steps",
    "steps_per_second",
    "policy_lag_mean",
    "contributions_accepted",
    "entropy",
    "checkpoint_age_s",
    "sensitivity_fidelity_cosine",
)
NOT_IN_THE_MAZE = ("level", "gpu", "cache", "engine", "env_deadlines", "progress", "return", "explained")
OF_OTHER_OPTIONS = (
    "slowest_actor",
    "per_second_p",
    "importance",
    "clip_ratio",
    "td_error",
    "q_value",
    "replay",
    "rule_fidelity",
)
"""What an exact rule, R2AC with one pass, or a small fleet does not have."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=patience(60))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def prometheus_url(tmp_path: Path) -> Iterator[str]:
    """Address of a Prometheus that scrapes a training run."""
    exporter, port = free_port(), free_port()
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000"}
    environment.pop("RAY_ADDRESS", None)
    train = [
        sys.executable,
        "-m",
        "r2ac.commands.train",
        "experiment=tmaze",
        "fleet.num_actors=1",
        "actors.fidelity_every=5",
        "total_steps=100000000",
    ]
    train += [f"fleet.metrics_port={exporter}", "logging.interval_s=1", f"run_dir={tmp_path / 'run'}"]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    assert PROMETHEUS is not None
    scrape = [PROMETHEUS, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    scrape += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with (tmp_path / "train.log").open("w") as log:
        training = subprocess.Popen(train, env=environment, stdout=log, stderr=log)
        scraping = subprocess.Popen(scrape)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        end(training)
        end(scraping)


def query(url: str, expression: str) -> list[dict]:
    with urllib.request.urlopen(
        f"{url}/api/v1/query?query={urllib.parse.quote(expression)}", timeout=patience(10)
    ) as answer:
        return json.load(answer)["data"]["result"]


def test_a_training_run_fills_the_dashboard(prometheus_url: str, tmp_path: Path) -> None:
    def has_two_samples_of_each() -> bool:
        with suppress(OSError):  # Prometheus is still starting
            return all(query(prometheus_url, f"rate(ray_rtrl_{name}[30s])") for name in HEADLINES)
        return False

    wait_until("two samples", has_two_samples_of_each, pause_s=1, details=(tmp_path / "train.log").read_text)
    answers = {
        text: query(prometheus_url, text.replace("$__rate_interval", "30s").replace("$run", ".*"))
        for text in expressions()
    }
    empty = [text for text, found in answers.items() if not found]
    left = [text for text in empty if not any(word in text for word in (*NOT_IN_THE_MAZE, *OF_OTHER_OPTIONS))]
    assert not left, "\n".join(left)
    assert {series["metric"]["run"] for found in answers.values() for series in found} == {"tmaze"}
