"""A sweep on SLURM is one array: each task really trains with its own words, whatever is in them."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from slurm_tools import RAY, SCONTROL, SRUN, make_tool

from conf.load import load_train
from r2ac.commands.submit import DRY_RUN
from r2ac.commands.sweep import main
from r2ac.jobs.slurm_array import ranges

pytestmark = pytest.mark.seconds

AWKWARD = 'logging.wandb_project=it\'s a "big" $HOME; `id` & %j #1 \\ *'
SWEEP = (
    "sweep_name=several",
    "experiment=tmaze",
    AWKWARD,
    "env.name='a \"b\" $c','d,e'",
    "seed=1,2",
    "total_steps=1000",
)
SBATCH_ARRAY = """
import json, os, pathlib, shlex, subprocess, sys
# As sbatch: options with a shell's quotes, one % for %%, the task's number for %a; here the tasks run one after the other.
here = pathlib.Path(sys.argv[0]).parent
if sys.argv[1:] != ["--parsable"]: sys.exit(f"sbatch: error: unexpected {sys.argv[1:]}")
script, options = sys.stdin.read(), {}
for line in script.splitlines():
    if not line.startswith("#"): break
    if not line.startswith("#SBATCH "): continue
    (word,) = shlex.split(line.removeprefix("#SBATCH "), comments=True)
    name, _, value = word.removeprefix("--").partition("=")
    options[name] = value
(here / "options").write_text(json.dumps(options))
spans = [list(map(int, part.split("-"))) for part in options["array"].partition("%")[0].split(",")]
for task in (number for span in spans for number in range(span[0], span[-1] + 1)):
    log = options["output"].replace("%%", "\\0").replace("%a", str(task)).replace("\\0", "%")
    variables = {"SLURM_JOB_NODELIST": "x", "SLURM_JOB_ID": str(100 + task), "SLURM_ARRAY_TASK_ID": str(task)}
    with open(log, "a") as file:
        subprocess.run(["bash", "-c", script], env=os.environ | variables, stdout=file, stderr=file, check=True)
print("42")
"""
TRAINING = """
import json, os, sys
with open(os.path.join(os.path.dirname(sys.argv[0]), "words"), "a") as file: file.write(json.dumps(sys.argv[1:]) + "\\n")
"""
SQUEUE = "import sys; assert sys.argv[1:] == ['--me', '--noheader', '--name=several', '--format=%i'], sys.argv"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    programs = {"sbatch": SBATCH_ARRAY, "srun": SRUN, "ray": RAY, "rtrl-train": TRAINING, "scontrol": SCONTROL}
    for name, program in (programs | {"hostname": "print('127.0.0.1')", "squeue": SQUEUE}).items():
        make_tool(folder, name, program)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


def test_each_task_of_the_array_trains_with_its_own_words_into_its_own_folder(
    tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my 100% runs"
    words = ["target=slurm", "target.launcher=symmetric_run", "target.setup=true", "target.port=65530", "jobs=2"]
    assert main([*words, f"run_root={root}", *SWEEP]) == 0
    assert "sweep several: 4 jobs queued as 42_[0-3]" in capsys.readouterr().out
    options = json.loads((tools / "options").read_text())
    assert (options["array"], options["job-name"]) == ("0-3%2", "several")
    assert sorted(path.name for path in root.glob("several/task-*.log")) == [f"task-{n}.log" for n in range(4)]
    got = [json.loads(line) for line in (tools / "words").read_text().splitlines()]
    configs = [load_train(each) for each in got]
    assert [(config.env.name, config.seed) for config in configs] == [
        ('a "b" $c', 1),
        ('a "b" $c', 2),
        ("d,e", 1),
        ("d,e", 2),
    ]
    assert all(AWKWARD in each for each in got)
    assert [config.fleet.address for config in configs] == [f"127.0.0.1:{65530 + task}" for task in range(4)]
    folders = [job["folder"] for job in json.loads((root / "several" / "sweep.json").read_text())["jobs"]]
    assert [config.run_dir for config in configs] == [f"{root}/several/{folder}" for folder in folders]
    assert len({config.name for config in configs}) == 2


@pytest.mark.parametrize("target", ["slurm", "ray_job", "kuberay", "local"])
def test_what_would_be_submitted_is_shown_and_nothing_is_written(
    target: str, tools: Path, tmp_path: Path, capsys
) -> None:
    assert main([f"target={target}", *SWEEP, DRY_RUN]) == 0
    text = capsys.readouterr().out
    assert text.count("seed=2") >= 2
    assert not (tmp_path / "runs").exists()


def test_a_sweep_that_is_queued_is_not_queued_again(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tool(tools, "squeue", "print(7)")
    assert main(["target=slurm", *SWEEP]) == 2
    assert "job name several is in use by job 7" in capsys.readouterr().err
    assert not (tools / "options").exists()


def test_a_cluster_that_queues_by_itself_is_told_so_once(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["target=ray_job", "jobs=2", *SWEEP]) == 2
    assert "with target=ray_job all jobs are submitted at once" in capsys.readouterr().err


def test_kuberay_gets_a_job_of_each_combination_and_leaves_those_that_run(
    tools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kubectl = """
        import json, os, sys
        if "get" in sys.argv and "several-1" in sys.argv: print(json.dumps({"status": {"jobDeploymentStatus": "Running"}}))
        if "create" in sys.argv:
            with open(os.path.join(os.path.dirname(sys.argv[0]), "created"), "a") as file: file.write(sys.stdin.read())
    """
    make_tool(tools, "kubectl", "\n".join(line.removeprefix(" " * 8) for line in kubectl.splitlines()))
    assert main(["target=kuberay", *SWEEP]) == 0
    output = capsys.readouterr().out
    assert output.count("created in namespace default") == 3
    assert "job several-1 still runs" in output
    created = (tools / "created").read_text()
    assert created.count("kind: RayJob") == 3
    assert "run_dir=/r2ac/runs/several/env.name=d_e,seed=2" in created.replace("\n    ", " ")


def test_the_numbers_of_an_array_are_spans() -> None:
    assert ranges(dict.fromkeys([0, 1, 2, 3, 7, 9, 10])) == "0-3,7,9-10"
    assert ranges({5: None}) == "5"


def test_the_line_of_a_local_job_is_read_back_by_a_shell(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SWEEP, DRY_RUN]) == 0
    first = shlex.split(capsys.readouterr().out.splitlines()[0])
    assert first[:3] == [sys.executable, "-m", "r2ac.commands.train"]
    assert AWKWARD in first
