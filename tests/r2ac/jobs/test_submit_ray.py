"""rtrl-submit against real Ray: the job API of a running cluster, and the SLURM script with a stand-in for srun."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from patience import patience, wait_until

from r2ac.commands.submit import DRY_RUN, main
from r2ac.commands.sweep import main as sweep
from r2ac.jobs import ray_job

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
TRAIN = ["experiment=tmaze", "fleet.num_actors=1", "logging.interval_s=1", "logging.tensorboard=false"]


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A Ray of our own: other Rays of this machine and its user are neither seen nor disturbed."""
    folder = tempfile.mkdtemp(prefix="r2ac")  # short: Ray's sockets lie in it
    ours = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield dict(os.environ)
    shutil.rmtree(folder, ignore_errors=True)


def end(process: subprocess.Popen) -> None:
    """Ends a process group of ours, at once: a head that is asked to end waits for its work to drain first."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=patience(60))


@pytest.fixture
def cluster(environment: dict[str, str]) -> Iterator[str]:
    """Address of a Ray head's job API."""
    port, dashboard, agent, client = free_ports(4)
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--ray-client-server-port={client}", "--num-cpus=2", "--object-store-memory=200000000"]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", dashboard)) == 0

    try:
        wait_until("the dashboard", answers)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        end(process)


def test_a_job_is_submitted_refused_twice_stopped_and_goes_on_when_submitted_again(
    cluster: str, tmp_path: Path, capfd
) -> None:
    words = ["target=ray_job", f"target.address={cluster}", "job_name=first", f"run_root={tmp_path}", *TRAIN]
    words += ["logging.checkpoint_interval_s=1"]
    checkpoints = tmp_path / "first" / "checkpoints"
    assert main([*words, "total_steps=1000000000", "follow=false"]) == 0
    wait_until("a checkpoint", lambda: any(int(path.name) for path in checkpoints.glob("[0-9]*")))
    assert main([*words, "follow=false"]) == 2
    assert "job name first is in use by first-1" in capfd.readouterr().err

    client = ray_job.connect(cluster)
    client.stop_job("first-1")
    wait_until("the end of the job", lambda: client.get_job_status("first-1").is_terminal())
    reached = max(int(path.name) for path in checkpoints.glob("[0-9]*"))

    assert main([*words, f"total_steps={reached + 2000}"]) == 0
    output = capfd.readouterr().out
    assert "submitted as first-2" in output
    went_on = re.search(r"going on at ([\d,]+) agent steps", output)
    assert went_on is not None, output
    assert int(went_on[1].replace(",", "")) >= reached > 0
    assert "job first-2 succeeded" in output


@pytest.mark.soak
def test_a_sweep_is_a_ray_job_of_each_combination_and_what_is_finished_is_not_submitted_again(
    cluster: str, tmp_path: Path, capfd
) -> None:
    words = ["target=ray_job", f"target.address={cluster}", "sweep_name=two", f"run_root={tmp_path}", "seed=1,2"]
    words += ["experiment=tmaze", "fleet=local", "fleet.num_actors=1", "actors.num_envs=4", "total_steps=64"]
    assert sweep([*words, "logging=quiet"]) == 0
    assert "job two-1 submitted as two-1-1" in capfd.readouterr().out
    client = ray_job.connect(cluster)
    wait_until("the end of both", lambda: all(client.get_job_status(f"two-{n}-1").is_terminal() for n in (0, 1)))
    assert all((tmp_path / "two" / f"seed={seed}" / "summary.json").exists() for seed in (1, 2))
    assert sweep([*words, "logging=quiet"]) == 0
    assert capfd.readouterr().out == "2 of 2 jobs are finished already\n"


@pytest.mark.soak
def test_the_slurm_script_trains_on_two_nodes_and_ends_what_it_started(
    environment: dict[str, str], tmp_path: Path, capsys
) -> None:
    """srun runs its command on this machine; the nodes are two Ray nodes of one core each."""
    port, client = free_ports(2)
    tools = tmp_path / "tools"
    tools.mkdir()
    stand_ins = {
        "scontrol": 'printf "127.0.0.1\\nother\\n"',
        "hostname": "echo 127.0.0.1",
        # A second head's worth of ports on one machine would collide; the other nodes take free ones.
        "srun": f"""while [[ "$1" == -* ]]; do shift; done
            [ "$1 $2" = "ray start" ] && [ "$3" = --head ] && set -- "$@" --ray-client-server-port={client} --object-store-memory=100000000
            [ "$1 $2" = "ray start" ] && set -- "$@" --dashboard-agent-listen-port=$(shuf -i 20000-30000 -n 1)
            echo $$ >>{tools}/started; exec "$@" """,
    }
    for name, script in stand_ins.items():
        (tools / name).write_text(f"#!/bin/bash\n{script}\n")
        (tools / name).chmod(0o755)
    words = ["target=slurm", f"target.port={port}", "target.cpus_per_node=1", "target.setup=true", "job_name=first"]
    assert main([*words, f"run_root={tmp_path}", *TRAIN, "total_steps=2000", DRY_RUN]) == 0
    script = tmp_path / "job.sh"
    script.write_text(capsys.readouterr().out)
    environment |= {"PATH": f"{tools}:{environment['PATH']}", "SLURM_JOB_NODELIST": "x", "SLURM_JOB_ID": "1"}
    log = tmp_path / "job.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", script], env=environment, start_new_session=True, stdout=output, stderr=output
        )
    try:
        assert process.wait(timeout=patience(200)) == 0, log.read_text()
    finally:
        end(process)
    assert (tmp_path / "first" / "summary.json").exists(), log.read_text()
    started = [int(number) for number in (tools / "started").read_text().split()]
    assert len(started) == 3  # hostname, head, worker
    assert not [number for number in started if Path(f"/proc/{number}").exists()]
