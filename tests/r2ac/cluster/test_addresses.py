"""A run joins the cluster that was meant, or says in one line what it found: with nothing, other servers, and two real clusters."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from patience import patience, wait_until

from r2ac.cluster import addresses
from r2ac.cluster.addresses import JOB_API, RAY, AddressError, Endpoint, cluster_at, running_here, what_answers
from r2ac.jobs import ray_job
from r2ac.jobs.job import SubmitError

BIN = Path(sys.executable).parent
TRAIN = [
    *("experiment=tmaze", "env.corridor=5", "fleet.num_actors=1", "actors.num_envs=2", "actors.unroll=5"),
    *("network.num_units=8", "logging.tensorboard=false", "logging.terminal=plain", "total_steps=50"),
]


@pytest.fixture(autouse=True)
def _named_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(addresses.FOUND_BY, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def web_server() -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "host", "port", "text"),
    [
        ("node7:6379", "node7", 6379, "node7:6379"),
        ("[::1]:6379", "::1", 6379, "[::1]:6379"),
        ("http://10.0.0.1:8265", "10.0.0.1", 8265, "10.0.0.1:8265"),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int, text: str) -> None:
    assert Endpoint.parse(address) == (host, port)
    assert str(Endpoint.parse(address)) == text


@pytest.mark.parametrize(
    "address", ["node7", "node7:", ":6379", "node7:ray", "node7:99999", "", "http://", "[::1:6379"]
)
def test_anything_else_is_refused_with_what_is_expected(address: str) -> None:
    with pytest.raises(
        AddressError, match=r"fleet.address=.*: expected the address of a running Ray cluster, HOST:PORT"
    ):
        cluster_at(address)


def test_what_is_no_cluster_is_said(web_server: int) -> None:
    with pytest.raises(AddressError, match="but a web server answers there"):
        cluster_at(f"127.0.0.1:{web_server}")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(AddressError, match=r"but nothing \(Connection refused\) answers there"):
        cluster_at(f"127.0.0.1:{port}")
    with pytest.raises(
        SubmitError, match=r"expected the address of the cluster's dashboard, .* but a web server answers"
    ):
        ray_job.connect(f"http://127.0.0.1:{web_server}")


def test_rays_client_is_refused_because_a_run_needs_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AddressError, match=r"fleet.address=ray://head:10001: .* rtrl-submit target=ray_job"):
        cluster_at("ray://head:10001")
    monkeypatch.setenv(addresses.FOUND_BY, "ray://head:10001")
    with pytest.raises(AddressError, match=r"RAY_ADDRESS=ray://head:10001 \(fleet.address=auto\): expected"):
        cluster_at("auto")


def test_auto_finds_nothing_where_nothing_runs_whatever_an_old_cluster_has_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([]))
    with pytest.raises(AddressError, match=r"no Ray cluster is running here; say which with fleet\.address=HOST:PORT"):
        cluster_at("auto")


class Head(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int
    dashboard: int
    client: int


def start_head(environment: dict[str, str]) -> Head:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    port, dashboard, client, agent = (probe.getsockname()[1] for probe in probes)
    for probe in probes:
        probe.close()
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--ray-client-server-port={client}", "--num-cpus=2", "--object-store-memory=100000000"]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    return Head(process, port, dashboard, client)


def has_node(head: Head) -> bool:
    return any(Endpoint.parse(address).port == head.port for address in running_here())


def is_up(head: Head) -> bool:
    return what_answers(Endpoint("127.0.0.1", head.dashboard)) == JOB_API and has_node(head)


def end(process: subprocess.Popen[bytes]) -> None:
    """At once: a head that is asked to end waits for its work to drain first."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=patience(60))


@pytest.fixture(scope="module")
def clusters() -> Iterator[tuple[Head, Head]]:
    """Two clusters of one machine and one user that share the folder in which Ray notes the one that was started last."""
    folder = tempfile.mkdtemp(prefix="r2ac")  # short: Ray's sockets lie in it
    names = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | names
    environment |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PATH": f"{BIN}:{os.environ['PATH']}"}
    heads: list[Head] = []
    try:
        for _ in range(2):
            heads.append(start_head(environment))
            wait_until("a node and a job API", partial(is_up, heads[-1]))
        yield heads[0], heads[1]
    finally:
        for head in heads:
            end(head.process)
        shutil.rmtree(folder, ignore_errors=True)


def train(tmp_path: Path, address: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "r2ac.commands.train",
        *TRAIN,
        f"run_dir={tmp_path}/run",
        f"fleet.address={address}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience(200), check=False)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_each_port_of_a_cluster_is_known_by_what_it_answers(clusters: tuple[Head, Head]) -> None:
    head, _ = clusters
    assert what_answers(Endpoint("127.0.0.1", head.port)) == RAY
    assert what_answers(Endpoint("localhost", head.port)) == RAY
    assert what_answers(Endpoint("127.0.0.1", head.dashboard)) == JOB_API
    assert "client" in what_answers(Endpoint("127.0.0.1", head.client))
    for address in (f"http://127.0.0.1:{head.dashboard}", f"127.0.0.1:{head.dashboard}"):
        with pytest.raises(
            AddressError, match=f"rtrl-submit target=ray_job target.address=http://127.0.0.1:{head.dashboard}"
        ):
            cluster_at(address)
    with pytest.raises(SubmitError, match="but Ray's own port answers"):
        ray_job.connect(f"http://127.0.0.1:{head.port}")
    assert ray_job.connect(f"127.0.0.1:{head.dashboard}").get_version()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_auto_does_not_choose_between_two_clusters(
    clusters: tuple[Head, Head], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = clusters
    refused = train(tmp_path, "auto")
    assert refused.returncode == 2, refused.stderr
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert (
        re.search(rf"\d+ Ray clusters have a node here \(.*:{min(first.port, second.port)}\b", line)
        or str(first.port) in line
    )
    assert str(second.port) in line
    assert "Traceback" not in refused.stderr
    monkeypatch.setenv(addresses.FOUND_BY, f"localhost:{first.port}")
    assert cluster_at("auto") == f"127.0.0.1:{first.port}"


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_a_job_trains_on_the_cluster_that_it_was_sent_to_although_another_was_started_later(
    clusters: tuple[Head, Head], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from r2ac.commands.submit import main

    first, second = clusters
    monkeypatch.chdir(tmp_path)
    words = ["target=ray_job", f"target.address=http://127.0.0.1:{first.dashboard}", "job_name=here", *TRAIN]
    assert main([*words, f"run_root={tmp_path}/my runs"]) == 0, capfd.readouterr()
    assert (tmp_path / "my runs" / "here" / "summary.json").exists()
    # The driver of the training is one of the first cluster's; the second has never seen one.
    assert ray_job.connect(f"http://127.0.0.1:{first.dashboard}").get_job_info("here-1").driver_info is not None
    assert ray_job.connect(f"http://127.0.0.1:{second.dashboard}").list_jobs() == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_other_versions_on_the_cluster_are_one_line(clusters: tuple[Head, Head], tmp_path: Path) -> None:
    _, head = clusters
    pretend = """
import json, sys
from ray._private import ray_constants
from ray._raylet import GcsClient
text = json.dumps({"ray_version": "2.0.0", "python_version": "3.9.1"}).encode()
GcsClient(address=sys.argv[1]).internal_kv_put(b"CLUSTER_METADATA", text, True, ray_constants.KV_NAMESPACE_CLUSTER)
"""
    subprocess.run([sys.executable, "-c", pretend, f"127.0.0.1:{head.port}"], check=True)
    refused = train(tmp_path, f"127.0.0.1:{head.port}")
    assert refused.returncode == 2, refused.stderr
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(
        r"cannot be joined: .*Ray: 2\.0\.0 Python: 3\.9\.1.*; install the same versions here and there", line
    )
    assert "Traceback" not in refused.stderr
