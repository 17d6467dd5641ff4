"""rtrl-submit: what is rendered and what is refused."""

import json
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from rendered_job import TRAIN, rendered

from conf.load import load_train
from conf.submit_schema import TARGET_CONFIGS
from r2ac.commands.submit import DRY_RUN, TARGETS, main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_words(command: str) -> list[str]:
    """The words after rtrl-train in a line of a rendered job."""
    return command.partition("rtrl-train ")[2].split()


def test_there_is_a_file_and_a_module_for_every_kind_of_target() -> None:
    kinds = {path.stem: yaml.safe_load(path.read_text())["kind"] for path in (ROOT / "conf" / "target").glob("*.yaml")}
    assert kinds.keys() == set(kinds.values()) == TARGET_CONFIGS.keys() == TARGETS.keys()


@pytest.mark.seconds
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_renders_a_command_that_training_understands_and_that_resumes(target: str, capsys) -> None:
    text = rendered(capsys, f"target={target}", "job_name=first", "run_root=/shared/runs")
    text = text.replace("\n    ", " ").replace("r2ac.commands.train", "rtrl-train")
    line = next(line for line in text.splitlines() if "rtrl-train" in line)
    words = [word.strip('",') for word in train_words(line) if "=" in word]
    config = load_train(words)
    assert config.run_dir == ("/r2ac/runs/first" if target == "kuberay" else "/shared/runs/first")
    assert config.resume == "auto"
    # A job of the job API is told by Ray where it is; the script of an allocation knows the head that it started.
    assert config.fleet.address == {"local": None, "slurm": "$address:6379"}.get(target, "auto")


@pytest.mark.seconds
def test_what_the_user_says_wins_over_what_a_target_proposes(capsys) -> None:
    script = rendered(capsys, "target=slurm", "job_name=first", "fleet.num_actors=3")
    assert "fleet.num_actors=3" in script
    assert script.count("fleet.num_actors") == 1


@pytest.mark.seconds
def test_a_url_is_kept_as_the_place_of_runs(capsys) -> None:
    for target in TARGETS:
        text = rendered(capsys, f"target={target}", "job_name=first", "run_root=s3://bucket/runs")
        assert "run_dir=s3://bucket/runs/first" in text


@pytest.mark.seconds
def test_no_secret_of_the_environment_is_rendered(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret-key")
    monkeypatch.setenv("R2AC_SECRET", "very-secret-key")
    for target in TARGETS:
        assert "very-secret-key" not in rendered(capsys, f"target={target}", "job_name=first")
        words = [
            "run_root=s3://k:${oc.env:R2AC_SECRET}@host/runs",
            "env=dmlab",
            "env.level_cache_remote=s3://${oc.env:NOT_HERE}",
        ]
        text = rendered(capsys, f"target={target}", "job_name=first", *words)
        assert "very-secret-key" not in text
        assert "run_dir=s3://k:${oc.env:R2AC_SECRET}@host/runs/first" in text.replace("\n    ", " ")
        assert "${oc.env:NOT_HERE}" in text


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["job_name"], "expected option=value"),
        ([], "job_name is needed"),
        (["job_name=Not_Good"], "lower-case letters"),
        (["job_name=a", "target=slrm"], "did you mean slurm"),
        (["job_name=a", "target=slurm", "target.node=2"], "did you mean target.nodes"),
        (["job_name=a", "target=slurm", "target.nodes=none"], "target.nodes: "),
        (["job_name=a", "target=slurm", "target.nodes=0"], "target.nodes must be at least 1"),
        (["job_name=a", "target=slurm", "target.launcher=mpi"], "must be one of manual, symmetric_run"),
        (["job_name=a", "run_dir=elsewhere"], "set job_name and run_root"),
        (["job_name=a", "actors.unrol=5"], "unknown option"),
        (["job_name=a", "target=kuberay", "target.runs_claim=null"], "set run_root to a URL"),
        (["job_name=a", "target=kuberay", "target.worker_memory=lots", DRY_RUN], "lots"),
        (
            ["job_name=a", "target=slurm", "target.partition=a\n#SBATCH --wrap=x", DRY_RUN],
            "target.partition must be one line",
        ),
        (["job_name=a", "target=slurm", "target.partition=a --wrap=x", DRY_RUN], "target.partition must be one word"),
        (["job_name=a", "target=slurm", "target.account=$(id)", DRY_RUN], "target.account must be one word"),
        (["job_name=a", "target=slurm", "target.setup=a\nb", DRY_RUN], "target.setup must be one line"),
        (["job_name=a", "target=slurm", "target.port=65536", DRY_RUN], "target.port must be at most 65535"),
        (["job_name=a; rm -rf x", DRY_RUN], "lower-case letters"),
        (
            ["job_name=a", "run_root=s3://key:hunter22@host/x", DRY_RUN],
            "run_root=s3://***@host/x: others can read a job's text",
        ),
        (["job_name=a", "env=dmlab", "env.level_cache_remote=s3://k:hunter22@h", DRY_RUN], "this one holds a password"),
    ],
)
def test_a_mistake_is_one_clear_line(words: list[str], message: str, capsys) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.seconds
@pytest.mark.parametrize(("target", "tool"), [("slurm", "squeue"), ("kuberay", "kubectl")])
def test_a_missing_tool_is_named(
    target: str, tool: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([f"target={target}", "job_name=first", *TRAIN]) == 2
    assert f"{tool} is not installed here" in capsys.readouterr().err


@pytest.mark.seconds
def test_an_address_where_nothing_answers_is_one_clear_line(capsys, free_port: int) -> None:
    address = f"http://127.0.0.1:{free_port}"
    assert main(["target=ray_job", f"target.address={address}", "job_name=first", *TRAIN]) == 2
    error = capsys.readouterr().err
    assert f"no Ray cluster answers at target.address={address}" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_local_job_goes_on_where_it_was(tmp_path: Path, capfd) -> None:
    words = ["job_name=first", f"run_root={tmp_path}", "experiment=tmaze", "fleet=local", "fleet.num_actors=1"]
    assert main([*words, "total_steps=640"]) == 0
    assert main([*words, "total_steps=3200"]) == 0
    output = capfd.readouterr().out
    assert output.count("job first succeeded") == 2
    assert output.count("going on at") == 1
    assert json.loads((tmp_path / "first" / "summary.json").read_text())["agent_steps"] >= 3200


@pytest.mark.parametrize("name", ["kuberay/rayjob.yaml", "slurm/job.sh"])
def test_the_examples_in_docker_are_what_is_rendered(name: str, capsys) -> None:
    """If this fails: rtrl-submit ... --dry-run >docker/NAME with the words below."""
    folder = name.partition("/")[0]
    words = (f"target={folder}", "job_name=breakout", "run_root=/shared/runs")
    text = rendered(capsys, *words, train=("experiment=atari_breakout",))
    assert (ROOT / "docker" / name).read_text() == text


@pytest.mark.seconds
def test_a_variable_in_a_jobs_setup_is_its_shells(capsys) -> None:
    text = rendered(capsys, "target=slurm", "job_name=first", "target.setup=source ${HOME}/venv/bin/activate")
    assert "\nsource ${HOME}/venv/bin/activate\n" in text


@pytest.mark.seconds
@pytest.mark.parametrize("folder", ["a b", "100% c", 'q"u', "it's"])
def test_a_path_of_any_characters_is_one_path_to_sbatch_and_to_the_shell(folder: str, tmp_path: Path, capsys) -> None:
    (tmp_path / folder).mkdir()
    text = rendered(capsys, "target=slurm", "job_name=first", "target.setup=true", f"run_root={tmp_path / folder}")
    (output,) = [line for line in text.splitlines() if line.startswith("#SBATCH --output=")]
    assert (
        shlex.split(output.removeprefix("#SBATCH "))[0].replace("%%", "%") == f"--output={tmp_path / folder}/first.log"
    )
    (token,) = [line for line in text.splitlines() if line.startswith("export RAY_AUTH_MODE")]
    shown = subprocess.run(
        ["bash", "-c", f'{token}; echo "$RAY_AUTH_TOKEN_PATH"'],
        env=os.environ | {"SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == f"{tmp_path / folder}/.first-7.token"


@pytest.mark.seconds
def test_only_a_jobs_own_pods_reach_all_ports_of_its_pods(capsys) -> None:
    policy, job = yaml.safe_load_all(rendered(capsys, "target=kuberay", "job_name=first"))
    ours = policy["spec"]["podSelector"]
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"].items() >= ours["matchLabels"].items()
    open_to_all = [rule for rule in policy["spec"]["ingress"] if "ports" not in rule]
    assert open_to_all == [{"from": [{"podSelector": ours}]}]
    assert "NetworkPolicy" not in rendered(capsys, "target=kuberay", "job_name=first", "target.network_policy=false")


def test_no_place_switches_rays_authentication_off() -> None:
    """Where others can reach its ports; a local Ray listens on the loopback interface alone."""
    for folder in ("docker", "r2ac/jobs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc",) and path.name != "ray_job.py":
                assert not re.search(r"RAY_AUTH_MODE\W+(value: )?disabled", path.read_text()), path


def test_the_operator_is_told_the_ray_of_the_lock_file() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    version = re.search(r"^ray==(\S+)", lock, re.MULTILINE)
    assert version is not None
    assert TARGET_CONFIGS["kuberay"]().ray_version == version[1]  # pyright: ignore[reportAttributeAccessIssue]
