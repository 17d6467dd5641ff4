"""Words and paths with spaces, quotes and a shell's characters reach the training as they were typed: the scripts are really run."""

import json
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from slurm_tools import HOSTNAME, RAY, SBATCH, SCONTROL, SRUN, TRAINING, TRAINING_OF_TWO_NODES, make_tool

from r2ac.commands.submit import DRY_RUN, main

TRAIN = ("experiment=tmaze", "total_steps=1000")
AWKWARD = ('logging.wandb_project=it\'s a "big" $HOME; `id` & %j #1 \\ *', "logging.wandb_entity= two  spaces ")

SQUEUE = "import sys; assert sys.argv[1:] == ['--me', '--noheader', '--name=first', '--format=%i'], sys.argv"


def outward_address() -> str:
    """Of this machine, as others see it; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:  # no network at all
            return "127.0.0.1"
        return probe.getsockname()[0]


OUTWARD = outward_address()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster's tools that refuse what the real ones would; the job starts in a folder with a space in its name."""
    folder = tmp_path / "tools"
    folder.mkdir()
    programs = {"sbatch": SBATCH, "srun": SRUN, "ray": RAY, "rtrl-train": TRAINING, "scontrol": SCONTROL}
    for name, program in (programs | {"hostname": HOSTNAME.format(OUTWARD), "squeue": SQUEUE}).items():
        make_tool(folder, name, program)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    (tmp_path / "work dir").mkdir()
    monkeypatch.chdir(tmp_path / "work dir")
    return folder


def words_of(tools: Path) -> list[str]:
    return json.loads((tools / "words").read_text())


@pytest.fixture
def port() -> int:
    with socket.create_server(("", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.seconds
@pytest.mark.parametrize("launcher", ["manual", "symmetric_run"])
def test_a_slurm_job_trains_with_the_words_and_folders_that_were_typed(
    launcher: str, tools: Path, tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my 100% runs"
    words = [
        "target=slurm",
        f"target.launcher={launcher}",
        "target.setup=true",
        "target.partition=long,short",
        f"target.port={port}",
        f"run_root={root}",
    ]
    assert main([*words, "job_name=first", *TRAIN, *AWKWARD]) == 0
    log = root / "first.log"
    assert (tools / "status").read_text() == "0", log.read_text()
    assert "job 42 completed" in capsys.readouterr().out
    got = words_of(tools)
    assert got[:4] == [*TRAIN, *AWKWARD]
    assert f"run_dir={root}/first" in got
    assert got[-1] == str(tmp_path / "work dir")
    assert json.loads((tools / "options").read_text())["partition"] == "long,short"


@pytest.mark.seconds
def test_a_slurm_job_joins_the_head_that_it_started_at_an_address_that_other_nodes_reach(
    tools: Path, tmp_path: Path, port: int
) -> None:
    make_tool(tools, "rtrl-train", TRAINING_OF_TWO_NODES)
    words = ["target=slurm", "target.setup=true", f"target.port={port}", f"run_root={tmp_path}"]
    assert main([*words, "job_name=first", *TRAIN]) == 0
    assert f"fleet.address={OUTWARD}:{port}" in words_of(tools)
    head, worker = sorted((tools / "started").read_text().splitlines(), reverse=True)
    assert f"--head --node-ip-address={OUTWARD} --port={port}" in head
    assert f"--address={OUTWARD}:{port}" in worker


@pytest.mark.seconds
@pytest.mark.parametrize("launcher", ["manual", "symmetric_run"])
def test_a_slurm_job_does_not_join_what_listens_at_its_port_already(
    launcher: str, tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tool(tools, "hostname", "print('127.0.0.1')")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = ["target=slurm", f"target.launcher={launcher}", "target.setup=true", f"target.port={port}"]
        main([*words, f"run_root={tmp_path}", "job_name=first", *TRAIN])
    assert (tools / "status").read_text() == "1"
    assert (
        f"error: another program, perhaps the Ray of another job, listens at 127.0.0.1:{port}"
        in capsys.readouterr().out
    )
    assert not (tools / "started").exists()
    assert not (tools / "words").exists()


@pytest.mark.seconds
def test_an_address_that_the_user_gives_is_the_only_one(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["target=slurm", "job_name=first", "fleet.address=head:7000", *TRAIN, DRY_RUN]) == 0
    assert capsys.readouterr().out.count("fleet.address=") == 1


def test_ray_session_files_with_too_long_a_name_are_refused_before_the_queue(
    tools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["target=slurm", "job_name=first", f"target.scratch=/{'x' * 40}", *TRAIN]) == 2
    assert "target.scratch must have at most 37 characters" in capsys.readouterr().err
    name = f"{'x' * 37}/ray/session_2026-12-31_23-59-59_123456_4194304/sockets/plasma_store"
    assert len(name) <= 107


@pytest.mark.seconds
def test_a_kuberay_job_trains_with_the_words_that_were_typed(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator gives the entry point to a shell that submits it; Ray quotes the words and gives them to another shell."""
    make_tool(
        tools, "ray", "import shlex, subprocess, sys\nsubprocess.run(shlex.join(sys.argv[4:]), shell=True, check=True)"
    )
    assert main(["target=kuberay", "job_name=first", *TRAIN, *AWKWARD, DRY_RUN]) == 0
    (job,) = (part for part in yaml.safe_load_all(capsys.readouterr().out) if part["kind"] == "RayJob")
    entrypoint = job["spec"]["entrypoint"]
    subprocess.run(["bash", "-ce", "--", f"if ! false ; then ray job submit -- {entrypoint} ; fi"], check=True)
    assert words_of(tools)[:4] == [*TRAIN, *AWKWARD]


def test_a_ray_job_trains_with_the_words_that_were_typed(
    tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray gives the entry point to a shell."""
    words = ["target=ray_job", "job_name=first", f"run_root={tmp_path}/my runs", *TRAIN, *AWKWARD]
    assert main([*words, DRY_RUN]) == 0
    subprocess.run(json.loads(capsys.readouterr().out)["entrypoint"], shell=True, check=True)
    assert words_of(tools)[:4] == [*TRAIN, *AWKWARD]
    assert f"run_dir={tmp_path}/my runs/first" in words_of(tools)


def test_a_local_job_is_shown_as_a_line_that_a_shell_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["job_name=first", f"run_root={tmp_path}/my runs", *TRAIN, *AWKWARD, DRY_RUN]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[3:7] == [*TRAIN, *AWKWARD]
    assert f"run_dir={tmp_path}/my runs/first" in words


SAID = {
    "kubectl without a cluster": (
        'E1125 10:00:00.000000   12345 memcache.go:265] "Unhandled Error" err="couldn\'t get current server API group list"\n'
        'E1125 10:00:00.000001   12345 memcache.go:265] "Unhandled Error" err="couldn\'t get current server API group list"\n'
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?\n",
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
    ),
    "kubectl without the right to": (
        "Warning: Use tokens from the TokenRequest API\n"
        'Error from server (Forbidden): rayjobs.ray.io "first" is forbidden: User "me" cannot get resource\n',
        'Error from server (Forbidden): rayjobs.ray.io "first" is forbidden: User "me" cannot get resource',
    ),
    "kubectl that only logs": (
        "E1125 10:00:00.000000   12345 round_trippers.go:45] unable to connect\n",
        "unable to connect",
    ),
    "squeue": (
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    ),
    "nothing": ("", "exit status 3"),
}


@pytest.mark.seconds
@pytest.mark.parametrize("case", SAID)
def test_what_a_tool_says_of_its_failure_is_in_the_message(
    case: str, tools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, expected = SAID[case]
    make_tool(tools, "kubectl", f"import sys\nsys.stderr.write({said!r})\nsys.exit(3)")
    assert main(["target=kuberay", "job_name=first", *TRAIN]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: kubectl --namespace=default get failed: (.*)\n", error), error
    assert error.removesuffix("\n").endswith(f"failed: {expected}")
