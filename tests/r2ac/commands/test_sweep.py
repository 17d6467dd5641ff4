"""rtrl-sweep on this machine: real runs, two at a time, stopped and gone on with; and what is refused before any of them starts."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from patience import patience, wait_until

from r2ac.commands.report import main as report
from r2ac.commands.sweep import main
from r2ac.monitoring.report.runs import group_runs, read_run
from r2ac.monitoring.report.sweep_folder import run_folders
from r2ac.sweeps.record import jobs_of, read_record

pytestmark = pytest.mark.seconds

TINY = (
    "experiment=tmaze",
    "env.corridor=3",
    "fleet=local",
    "fleet.num_actors=1",
    "actors.num_envs=4",
    "actors.unroll=4",
)
TRAIN = (*TINY, "total_steps=64", "logging=quiet")
SWEPT = ("rule=segment,tbptt", "seed=1,2")
FOLDERS = ["rule=segment,seed=1", "rule=segment,seed=2", "rule=tbptt,seed=1", "rule=tbptt,seed=2"]


def start(*words: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "r2ac.commands.sweep", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | variables
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    def so_or_ended() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return condition()

    wait_until("the jobs of the sweep", so_or_ended)


def steps(run: Path) -> int:
    summary = run / "summary.json"
    return json.loads(summary.read_text())["agent_steps"] if summary.exists() else 0


@pytest.mark.soak
def test_four_runs_two_at_a_time_are_stopped_and_gone_on_with_and_what_is_finished_is_left_alone(
    tmp_path: Path,
) -> None:
    words = ["sweep_name=tiny", f"run_root={tmp_path}", "jobs=2", *TINY, "logging=quiet", "total_steps=1024", *SWEPT]
    words += ["logging.interval_steps=64"]
    folder = tmp_path / "tiny"
    process = start(*words)
    # The first two are training, of which one may be done at any time; the others wait.
    wait_for(lambda: all(steps(folder / name) > 0 for name in FOLDERS[:2]), process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=patience(100))[0]
    assert process.returncode == 0, output
    assert "left: the same command goes on with them" in output
    reached = [steps(folder / name) for name in FOLDERS[:2]]
    assert all(list((folder / name / "checkpoints").glob("[0-9]*")) for name in FOLDERS[:2])
    assert not (folder / FOLDERS[3]).exists()

    process = start(*words)
    output = process.communicate(timeout=patience(200))[0]
    assert process.returncode == 0, output
    assert [job.folder for job in read_record(folder)] == FOLDERS
    assert all(steps(folder / name) >= 1024 for name in FOLDERS)
    for name, before in zip(FOLDERS[:2], reached, strict=True):
        went_on = "going on at" in (folder / name / "train.log").read_text()
        assert went_on == (before < 1024)

    written = {name: (folder / name / "metrics.jsonl").stat().st_mtime_ns for name in FOLDERS}
    assert main(words) == 0
    assert {name: (folder / name / "metrics.jsonl").stat().st_mtime_ns for name in FOLDERS} == written

    groups = group_runs([read_run(path) for path in run_folders([folder])[0]])
    assert [(group.label, len(group.runs)) for group in groups] == [("tiny rule=segment", 2), ("tiny rule=tbptt", 2)]
    assert report([str(folder), "--output", str(tmp_path / "page.html")]) == 0


@pytest.mark.soak
def test_a_job_that_fails_is_named_and_the_others_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tiny"
    (folder / "seed=1").mkdir(parents=True)
    (folder / "seed=1" / "checkpoints").touch()
    assert main(["sweep_name=tiny", f"run_root={tmp_path}", *TRAIN, "seed=1,2"]) == 1
    shown = capfd.readouterr()
    assert re.fullmatch(
        rf"error: job seed=1 failed with exit status [12]; its log: {folder}/seed=1/train.log",
        shown.err.splitlines()[-1],
    )
    assert "1 of 2 jobs finished, 1 failed" in shown.out
    assert "checkpoints" in (folder / "seed=1" / "train.log").read_text()
    assert steps(folder / "seed=2") >= 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TRAIN, "seed=1,2"], "sweep_name is needed: sweep_name=NAME"),
        (["sweep_name=Tiny_1"], "sweep_name must be lower-case letters, digits and dashes, at most 40, got 'Tiny_1'"),
        (["sweep_name=a", "rule=segment,bptt"], "unknown rule 'bptt': did you mean tbptt? (job rule=bptt)"),
        (["sweep_name=a", "actors.unroll=3,0"], "actors.unroll must be at least 1, got 0 (job actors.unroll=0)"),
        (["sweep_name=a", "seed=1,2", "seed=3"], "seed is given twice"),
        (["sweep_name=a", "name=x,y"], "name follows from the job: set sweep_name and run_root instead"),
        (["sweep_name=a", "jobs=0"], "jobs must be at least 1, got 0"),
        (["sweep_name=a", "target=slrm"], "unknown target 'slrm': did you mean slurm"),
        (["sweep_name=a", "env=gym/A", "logging.wandb_project=s3://k:hunter22@h"], "this one holds a password"),
        (["sweep_name=a", "sweep"], "expected option=value, got 'sweep'; rtrl-sweep --help lists the options"),
        (["sweep_name=a", "--cfg=all"], "only --cfg job is known"),
    ],
)
def test_a_mistake_in_any_combination_is_one_line_before_anything_starts(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep that has been started, without its runs."""
    monkeypatch.setattr("r2ac.sweeps.local.LocalSweep.run", lambda sweep: 0)
    assert main(["sweep_name=tiny", f"run_root={tmp_path}", *TRAIN, "env.name=a/b", *SWEPT]) == 0
    return tmp_path


def test_combinations_can_be_added_and_folders_stay(recorded: Path) -> None:
    words = ["sweep_name=tiny", f"run_root={recorded}", *TRAIN]
    before = read_record(recorded / "tiny")
    assert main([*words, "env.name=a/b,a_b", "rule=tbptt,segment", "seed=1,2,3"]) == 0
    after = read_record(recorded / "tiny")
    assert after[: len(before)] == before
    assert len(after) == 12
    assert len({job.folder for job in after}) == 12
    seeds = {name: [job for job in after if job.name == name] for name in {job.name for job in after}}
    assert sorted(map(len, seeds.values())) == [3, 3, 3, 3]  # also where two of the seeds were there before
    assert "env.name=a_b,rule=segment,seed=3" in [job.folder for job in after]


@pytest.mark.parametrize("other", [["total_steps=65"], ["loss.discount=0.9"], ["rule=tbptt"]])
def test_other_words_for_a_name_are_refused_in_one_line(recorded: Path, other: list[str], capsys) -> None:
    given = {word.partition("=")[0]: word for word in [*TRAIN, "env.name=a/b", *SWEPT]}
    given |= {word.partition("=")[0]: word for word in other}
    record = (recorded / "tiny" / "sweep.json").read_text()
    capsys.readouterr()
    assert main(["sweep_name=tiny", f"run_root={recorded}", *given.values()]) == 2
    error = capsys.readouterr().err
    assert "only combinations can be added; repeat its words, or choose another sweep_name" in error
    assert error.count("\n") == 1
    assert (recorded / "tiny" / "sweep.json").read_text() == record


def test_a_record_that_is_none_is_one_line(recorded: Path, capsys) -> None:
    (recorded / "tiny" / "sweep.json").write_text('{"jobs": [{"folder": "../x", "name": "a", "words": []}]}')
    assert main(["sweep_name=tiny", f"run_root={recorded}", *TRAIN]) == 2
    assert "names folders that are not inside it" in capsys.readouterr().err
    (recorded / "tiny" / "sweep.json").write_text("[1")
    assert main(["sweep_name=tiny", f"run_root={recorded}", *TRAIN]) == 2
    assert "is not the record of a sweep" in capsys.readouterr().err


def test_names_that_would_be_one_folder_or_too_long_become_two_that_stay() -> None:
    from conf.combinations import combinations

    found = combinations(["env=gym/a_b,gym/a-b,gym/a/b", f"logging.wandb_project=choice(a,{'x' * 300})"])
    jobs = jobs_of("s", found, [])
    assert len({job.folder for job in jobs}) == len({job.name for job in jobs}) == 6
    assert max(len(job.folder) for job in jobs) <= 120
    assert jobs_of("s", found[:3], [])[:3] == jobs[:3]
    assert jobs_of("s", found, jobs) == jobs


def test_the_configuration_of_every_job_is_printed_and_nothing_is_started(tmp_path: Path, capsys) -> None:
    assert main(["sweep_name=tiny", f"run_root={tmp_path}", *TRAIN, *SWEPT, "--cfg", "job"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [(each["rule"]["name"], each["seed"]) for each in printed] == [
        ("segment", 1),
        ("segment", 2),
        ("tbptt", 1),
        ("tbptt", 2),
    ]
    assert printed[0]["run_dir"] == f"{tmp_path}/tiny/rule=segment,seed=1"
    assert list(tmp_path.iterdir()) == []


def test_runs_elsewhere_leave_their_record_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r2ac.sweeps.local.LocalSweep.run", lambda sweep: 0)
    monkeypatch.chdir(tmp_path)
    assert main(["sweep_name=tiny", "run_root=s3://bucket/x", *TRAIN, *SWEPT]) == 0
    assert [job.folder for job in read_record(tmp_path / "runs" / "tiny")] == FOLDERS


def test_ones_own_configuration_files_are_found_by_every_job(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    for name in ("mine_a", "mine_b"):
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text("total_steps: 7\n")
    assert main(["--config-dir=conf", "sweep_name=a", "experiment=glob(mine_*)", "seed=1,2", "--cfg=job"]) == 0
    assert [each["total_steps"] for each in yaml.safe_load_all(capsys.readouterr().out)] == [7] * 4
    assert main(["--config-dir=conf", "sweep_name=a", "experiment=glob(mine_*)", "--dry-run"]) == 0
    assert capsys.readouterr().out.count(f"--config-dir={tmp_path}/conf") == 2
    assert main(["--config-dir=conf", "target=slurm", "sweep_name=a", "experiment=glob(mine_*)", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("words=(--config-dir=conf ") == 2


def test_a_report_of_a_sweep_that_has_only_begun_says_so(recorded: Path, capsys) -> None:
    folder = recorded / "tiny"
    assert report([str(folder), "--output", str(recorded / "page.html")]) == 2
    assert "is a sweep of which no run has logged anything yet" in capsys.readouterr().err
    first = folder / read_record(folder)[0].folder
    first.mkdir()
    (first / "metrics.jsonl").write_text('{"agent_steps": 5')
    assert report([str(folder), "--output", str(recorded / "page.html")]) == 2
    (first / "metrics.jsonl").write_text('{"agent_steps": 5}\n')
    assert run_folders([folder]) == ([first], [f"3 of 4 runs of {folder} have not logged anything yet"])
