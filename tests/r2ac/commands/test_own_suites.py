"""A suite of a user's own through the whole program: trained, resumed, evaluated, played, reported on and examined."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

from r2ac.commands import doctor_checks, evaluate, play, report, train
from r2ac.monitoring.report.runs import read_run

pytestmark = pytest.mark.seconds

SUITE = "own_suites:LIGHTS"
SIZES = [
    *("fleet.num_actors=1", "actors.num_envs=2", "actors.unroll=3", "network.encoder=none"),
    *("network.num_units=4", "logging=quiet"),
]
TOY = [*SIZES, "fleet=local"]


def train_words(run_dir: Path, *words: str) -> list[str]:
    return [f"env={SUITE}/dim", "env.lamps=3", *TOY, "total_steps=12", f"run_dir={run_dir}", *words]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lights") / "run"
    assert train.main(train_words(folder)) == 0
    return folder


def test_it_is_evaluated_by_its_own_protocol_and_scores(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [f"checkpoint={run_dir}", f"env={SUITE}", f"output={tmp_path}/scores.json"]
    assert evaluate.main(words) == 0
    document = json.loads((tmp_path / "scores.json").read_text())
    dim, bright = document["results"]
    assert document["environment"] == "own_suites:LIGHTS/dim"
    assert (dim["split"], dim["policy"], dim["episodes"], len(dim["run_means"])) == ("dim", "sampled", 8, 2)
    assert "human_normalised" not in dim
    assert bright["human_normalised"] == pytest.approx(100 * bright["mean_return"] / 2)
    assert document["lights_sampled"] == 16
    assert "lights_greedy" not in document
    assert "Lights, sampled: games of all splits: 16.0 %" in capsys.readouterr().out


def test_it_is_played_with_pictures(run_dir: Path, tmp_path: Path):
    words = [f"checkpoint={run_dir}", f"env={SUITE}/dim", "steps=3", f"output={tmp_path}/a.gif"]
    assert play.main(words) == 0
    assert (tmp_path / "a.gif").stat().st_size > 100
    assert play.main([f"env={SUITE}", "policy=random", "steps=3", f"output={tmp_path}/b.gif"]) == 0


def test_without_its_name_nothing_of_it_is_imported_and_one_line_says_so(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "own_suites", None)  # an import would fail
    for program in (evaluate.main, play.main):
        assert program([f"checkpoint={run_dir}"]) == 2
        error = capsys.readouterr().err
        assert f"repeat env={SUITE} if you trust it" in error
        assert error.count("\n") == 1
        assert program([f"checkpoint={run_dir}", "env=other:LIGHTS"]) == 2
        assert f"env=other:LIGHTS is not what is stored: {SUITE}/dim" in capsys.readouterr().err
        assert program([f"checkpoint={run_dir}", f"env={SUITE}/bright"]) == 2
        assert f"env={SUITE}/bright is not what is stored: {SUITE}/dim" in capsys.readouterr().err


def test_a_report_of_it_imports_nothing(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "own_suites", None)
    summary = json.loads((run_dir / "summary.json").read_text())
    (run_dir / "summary.json").rename(tmp_path / "kept.json")  # so that the hash is made of what is stored
    try:
        run = read_run(run_dir)
        assert run.config_hash == summary["config_hash"]
        assert run.options["env.lamps"] == 3
        assert report.main([str(run_dir), f"--output={tmp_path}/report.html"]) == 0
    finally:
        (tmp_path / "kept.json").rename(run_dir / "summary.json")


def test_it_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "run"
    for total in (12, 24):
        assert train.main(train_words(folder, f"total_steps={total}")) == 0
    assert json.loads((folder / "summary.json").read_text())["agent_steps"] >= 24
    assert train.main([*TOY, "env=tmaze", f"run_dir={folder}"]) == 2
    assert f"holds a run with env.suite={SUITE}, but this one has tmaze" in capsys.readouterr().err


def test_the_doctor_tries_it_and_asks_what_it_asks(monkeypatch: pytest.MonkeyPatch):
    tests = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tests}{os.pathsep}{tests.parent}")
    findings = list(doctor_checks._environments([f"env={SUITE}", "env.wiring=plan.txt"]))
    assert [(finding.name, finding.status) for finding in findings] == [
        (f"env={SUITE}", "ok"),
        ("dim lights", "ok"),
        ("wiring", "missing"),
    ]
    assert findings[0].detail == "lights/bright: reset, 10 steps, picture 32x32x3"
    assert findings[1].detail == "lights/dim: reset, 10 steps, picture 32x32x3"
    assert findings[2].detail == "plan.txt"
    (failed,) = doctor_checks._environments([f"env={SUITE}/torn"])
    assert (failed.status, failed.detail) == ("broken", "unknown lights 'torn': expected bright or dim")
    assert failed.advice == "change the bulb"
    (absent,) = doctor_checks._environments(["env=own_suites:DARK"])
    assert (absent.status, absent.detail) == ("broken", "env=own_suites:DARK: module own_suites has no 'DARK'")


@pytest.mark.soak
def test_its_actors_may_be_processes(tmp_path: Path):
    """Whose module lies in the folder in which the program was started, as the workers' does."""
    shutil.copy(Path(__file__).parents[2] / "own_suites.py", tmp_path / "lights.py")
    words = ["env=lights:LIGHTS", *SIZES, "total_steps=12", "fleet.object_store_bytes=80_000_000", "run_dir=run"]
    result = subprocess.run(
        [sys.executable, "-m", "r2ac.commands.train", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(200),
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["agent_steps"] >= 12
