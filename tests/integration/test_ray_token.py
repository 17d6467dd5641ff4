"""Ray's ports as others meet them: a cluster with a token takes who has it and nobody else, a local one is on the loopback interface."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from patience import patience, wait_until

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
TRAIN = [
    "experiment=tmaze",
    "env.corridor=5",
    "actors.num_envs=2",
    "actors.unroll=5",
    "network.num_units=8",
    "logging=quiet",
]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    folder = tempfile.mkdtemp(prefix="r2ac")  # short: Ray's sockets lie in it
    ours = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "HOME": folder, "PATH": f"{BIN}:{os.environ['PATH']}"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    yield kept | ours
    shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a head of its own process group, and the environment that holds its token."""
    token = tmp_path / "token"
    token.write_text("a" * 64)
    token.chmod(0o600)
    admitted = environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    address = f"127.0.0.1:{free_port()}"
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        f"--port={address.partition(':')[2]}",
        "--node-ip-address=127.0.0.1",
    ]
    command += ["--num-cpus=2", "--object-store-memory=100000000", "--include-dashboard=false"]
    command += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    log = tmp_path / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=admitted, start_new_session=True, stdout=output, stderr=output)
    try:

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            return healthy(address, admitted)

        wait_until("the head", is_up, details=log.read_text)
        yield address, admitted
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # asked to end, it would wait for its work to drain first
        process.wait(patience(60))


def healthy(address: str, environment: dict[str, str]) -> bool:
    command = ["ray", "health-check", "--address", address]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=patience(60), check=False)
    return done.returncode == 0


def train(address: str, environment: dict[str, str], run_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "r2ac.commands.train", *TRAIN, "total_steps=20", "fleet.num_actors=1"]
    command += [f"fleet.address={address}", f"run_dir={run_dir}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience(120), check=False)


@pytest.mark.soak
def test_a_cluster_with_a_token_takes_no_node_that_has_another(
    head: tuple[str, dict[str, str]], environment: dict[str, str]
):
    address, _ = head
    wrong = environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}
    node = ["ray", "start", f"--address={address}", "--num-cpus=1", "--object-store-memory=100000000"]
    joined = subprocess.run(node, env=wrong, capture_output=True, text=True, timeout=patience(120), check=False)
    assert joined.returncode != 0, joined.stdout + joined.stderr


def test_a_cluster_with_a_token_takes_who_has_it_and_nobody_else(
    head: tuple[str, dict[str, str]], environment: dict[str, str], tmp_path: Path
):
    address, admitted = head
    without = environment | {"RAY_AUTH_MODE": "disabled"}
    wrong = environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}
    for stranger in (without, wrong):
        assert not healthy(address, stranger)
    done = train(address, without, tmp_path / "refused")
    assert done.returncode == 2, done.stdout + done.stderr
    error = done.stderr.splitlines()[-1]  # Ray's own warnings come before
    assert error.startswith(f"error: fleet.address={address} cannot be joined: ")
    assert "RAY_AUTH_MODE=token" in error
    done = train(address, admitted, tmp_path / "admitted")
    assert done.returncode == 0, done.stdout + done.stderr
    words = " ".join(word for process in psutil.process_iter() for word in arguments(process))
    assert "a" * 64 not in words


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
