"""rtrl-submit speaks to the tools of a cluster, and the script that it gives to SLURM is run: with stand-ins for kubectl and SLURM."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from patience import patience, wait_until
from rendered_job import TRAIN, rendered

from r2ac.commands.submit import main
from r2ac.jobs import kuberay

RAY = '[[ "$*" == *--block* ]] && exec sleep 600; exit 0'
"""Its nodes stay until the job ends them."""


def make_tool(folder: Path, name: str, script: str) -> None:
    """A stand-in for a command, written in shell; it notes how it was called."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >>{folder}/calls\n{script}\n')
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


def rayjob(state: str, job: str | None = None, status: str = "") -> str:
    return json.dumps(
        {"status": {"jobDeploymentStatus": state, "jobId": job, "jobStatus": status, "message": "it broke"}}
    )


@pytest.mark.seconds
def test_kuberay_creates_the_job_shows_its_log_once_and_reports_the_final_state(
    tools: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kuberay, "POLL_S", 0.05)
    answers = ["", rayjob("Initializing"), rayjob("Running", "j1", "RUNNING"), rayjob("Running", "j1", "RUNNING")]
    answers += [rayjob("Complete", "j1", "SUCCEEDED")]
    for index, answer in enumerate(answers):
        (tools / f"answer{index}").write_text(answer)
    script = f"""case "$*" in
      *get*) n=$(cat {tools}/count 2>/dev/null || echo 0); echo $((n + 1)) >{tools}/count; cat {tools}/answer$n ;;
      *logs*) echo "a line of the log" ;;
      *create*) cat >{tools}/created ;;
      *apply*) cat >{tools}/applied ;;
    esac"""
    make_tool(tools, "kubectl", script)
    assert main(["target=kuberay", "target.namespace=lab", "job_name=first", *TRAIN]) == 0
    output = capfd.readouterr().out
    assert output.count("a line of the log") == 1
    assert "job first succeeded" in output
    created = yaml.safe_load((tools / "created").read_text())
    assert (created["metadata"]["name"], created["metadata"]["namespace"]) == ("first", "lab")
    assert created["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    policy = yaml.safe_load((tools / "applied").read_text())
    assert (policy["kind"], policy["metadata"]["namespace"]) == ("NetworkPolicy", "lab")
    assert "delete" not in (tools / "calls").read_text()


@pytest.mark.seconds
@pytest.mark.parametrize(("state", "status", "deleted"), [("Running", 2, False), ("Failed", 0, True)])
def test_kuberay_replaces_a_finished_job_but_never_a_running_one(
    state: str, status: int, deleted: bool, tools: Path, capsys
) -> None:
    make_tool(tools, "kubectl", f"[[ $* == *get* ]] && echo '{rayjob(state)}'; cat >/dev/null </dev/stdin; exit 0")
    assert main(["target=kuberay", "job_name=first", "follow=false", *TRAIN]) == status
    assert ("delete rayjob first" in (tools / "calls").read_text()) == deleted
    assert ("in use (Running)" in capsys.readouterr().err) == (not deleted)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has set a handler for the signal."""
    (mask,) = re.findall(r"^SigCgt:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def make_slurm(tools: Path, final: str) -> None:
    """SLURM on one machine: sbatch runs the script at once, srun runs its command here, with two nodes that are both this one."""
    make_tool(tools, "squeue", f"cat {tools}/active 2>/dev/null; exit 0")
    make_tool(tools, "scontrol", f'[ "$1" = show ] && [ "$2" = hostnames ] && printf "127.0.0.1\\nother\\n" || {final}')
    make_tool(tools, "hostname", "echo 127.0.0.1")
    make_tool(tools, "srun", 'while [[ "$1" == -* ]]; do shift; done; exec "$@"')
    make_tool(
        tools,
        "sbatch",
        f"""cat >{tools}/script; log=$(sed -n 's/^#SBATCH --output=//p' {tools}/script)
        SLURM_JOB_NODELIST=x SLURM_JOB_ID=42 bash {tools}/script >>"$log" 2>&1; echo $? >{tools}/status; echo 42""",
    )


@pytest.mark.seconds
def test_slurm_queues_the_script_shows_its_log_and_reports_the_final_state(tools: Path, tmp_path: Path, capsys) -> None:
    make_slurm(tools, 'echo "JobId=42 JobState=COMPLETED"')
    make_tool(tools, "ray", 'while [ "$1" != -- ] && [ $# -gt 0 ]; do shift; done; shift; exec "$@"')
    make_tool(tools, "rtrl-train", "echo training")
    words = ["target=slurm", "target.launcher=symmetric_run", "target.setup=true", f"run_root={tmp_path}"]
    assert main([*words, "job_name=first", *TRAIN]) == 0
    output = capsys.readouterr().out
    assert "queued as 42" in output
    assert "training" in output
    assert "job 42 completed" in output
    assert "symmetric-run --address 127.0.0.1:6379 --min-nodes 2" in (tools / "calls").read_text()


def test_slurm_refuses_a_name_that_is_queued(tools: Path, capsys) -> None:
    make_slurm(tools, "true")
    (tools / "active").write_text("7\n")
    assert main(["target=slurm", "job_name=first", *TRAIN]) == 2
    assert "job name first is in use by job 7" in capsys.readouterr().err
    assert "sbatch" not in (tools / "calls").read_text()


@pytest.mark.seconds
def test_the_slurm_script_saves_and_queues_itself_again_before_its_time_is_over(
    tools: Path, tmp_path: Path, capsys
) -> None:
    make_slurm(tools, f'echo "$*" >{tools}/requeued')
    make_tool(tools, "ray", RAY)
    make_tool(
        tools,
        "rtrl-train",
        f"trap 'sleep 0.5; touch {tools}/saved; exit 0' TERM; touch {tools}/started; while :; do sleep 0.05; done",
    )
    script = tmp_path / "job.sh"
    script.write_text(rendered(capsys, "target=slurm", "target.setup=true", "job_name=first"))
    environment = os.environ | {"SLURM_JOB_NODELIST": "x", "SLURM_JOB_ID": "42"}
    with subprocess.Popen(["bash", script], env=environment, start_new_session=True) as process:
        wait_until("the training", (tools / "started").exists)
        wait_until("the trap, which is set right after it", lambda: catches(process.pid, signal.SIGUSR1))
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=patience(20)) == 0
    assert (tools / "saved").exists()
    assert (tools / "requeued").read_text() == "requeue 42\n"
    calls = (tools / "calls").read_text()
    assert "ray start --head --node-ip-address=127.0.0.1 --port=6379" in calls
    assert "ray start --address=127.0.0.1:6379" in calls
    assert "ray stop" not in calls


@pytest.mark.seconds
def test_the_slurm_script_fails_as_its_training_does(tools: Path, tmp_path: Path, capsys) -> None:
    make_slurm(tools, "true")
    make_tool(tools, "ray", RAY)
    make_tool(tools, "rtrl-train", "exit 3")
    script = rendered(capsys, "target=slurm", "target.setup=true", "job_name=first")
    environment = os.environ | {"SLURM_JOB_NODELIST": "x", "SLURM_JOB_ID": "42"}
    assert subprocess.run(["bash", "-c", script], env=environment, timeout=patience(60), check=False).returncode == 3


@pytest.mark.seconds
def test_the_token_of_a_slurm_job_is_its_owners_alone_in_no_text_and_gone_with_the_job(
    tools: Path, tmp_path: Path, capsys
) -> None:
    make_slurm(tools, "true")
    make_tool(tools, "ray", RAY)
    make_tool(tools, "rtrl-train", f'cp -p "$RAY_AUTH_TOKEN_PATH" {tools}/token; echo "$RAY_AUTH_MODE" >{tools}/mode')
    script = rendered(capsys, "target=slurm", "target.setup=true", "job_name=first", f"run_root={tmp_path}/runs")
    environment = os.environ | {"SLURM_JOB_NODELIST": "x", "SLURM_JOB_ID": "42", "RAY_AUTH_TOKEN": "of another"}
    tokens = set()
    for _ in range(2):
        assert (
            subprocess.run(["bash", "-c", script], env=environment, timeout=patience(60), check=False).returncode == 0
        )
        token = (tools / "token").read_text()
        assert re.fullmatch("[0-9a-f]{64}", token)
        assert (tools / "token").stat().st_mode & 0o777 == 0o600
        assert token not in script + (tools / "calls").read_text()
        assert not list((tmp_path / "runs").glob(".*token"))
        tokens.add(token)
    assert len(tokens) == 2
    assert (tools / "mode").read_text() == "token\n"
