"""Every entry point as a user starts it, at toy size; and what they say to mistakes."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from patience import patience

README = Path(__file__).parents[2] / "README.md"
TOY_ATARI = [
    *("fleet=local", "fleet.num_actors=1", "actors.num_envs=2", "actors.unroll=4", "learner.batch_segments=2"),
    *("network.num_units=8", "network.features=16", "logging.terminal=plain", "logging.interval_steps=32"),
]


def program(module: str, *words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=patience(seconds), check=False)


@pytest.fixture(scope="module")
def breakout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very short run on real ALE frames."""
    run_dir = tmp_path_factory.mktemp("breakout")
    result = program("r2ac.commands.train", *TOY_ATARI, "total_steps=128", f"run_dir={run_dir}")
    assert result.returncode == 0, result.stderr
    return run_dir


@pytest.mark.slow
def test_train_leaves_what_other_programs_rely_on(breakout: Path):
    summary = json.loads((breakout / "summary.json").read_text())
    assert summary["agent_steps"] >= 128
    assert summary["frames"] == 4 * summary["agent_steps"]
    promised = re.search(r"in each row of `metrics.jsonl` `([^`]+)`", README.read_text())
    assert promised is not None
    names = re.split(r",\s+", promised[1])
    assert len(names) == 15
    assert set(names) | {"git_revision", "config_hash"} <= summary.keys()
    assert all(set(names) <= json.loads(line).keys() for line in (breakout / "metrics.jsonl").read_text().splitlines())
    assert summary["git_revision"]
    assert summary["config_hash"]
    assert {path.name for path in breakout.iterdir()} >= {
        "config.yaml",
        "sized.yaml",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "tensorboard",
    }


@pytest.mark.slow
def test_a_run_that_is_refused_changes_nothing_of_the_one_that_is_there(breakout: Path):
    kept = {path.name: path.read_bytes() for path in breakout.iterdir() if path.is_file()}
    result = program("r2ac.commands.train", *TOY_ATARI, "rule=tbptt", f"run_dir={breakout}")
    assert result.returncode == 2
    assert "holds a run with rule.name=segment, but this one has tbptt" in result.stderr
    assert {path.name: path.read_bytes() for path in breakout.iterdir() if path.is_file()} == kept


@pytest.mark.slow
def test_evaluate_plays_greedily_and_sampled_and_writes_json(breakout: Path, tmp_path: Path):
    output = tmp_path / "scores.json"
    result = program("r2ac.commands.evaluate", f"checkpoint={breakout}", "episodes=2", "num_envs=2", f"output={output}")
    assert result.returncode == 0, result.stderr
    document = json.loads(output.read_text())
    assert [entry["policy"] for entry in document["results"]] == ["greedy", "sampled"]
    for entry in document["results"]:
        assert entry["episodes"] == 2
        assert entry["human_normalised"] == pytest.approx(100 * (entry["mean_return"] - 1.7) / (30.5 - 1.7))


@pytest.mark.slow
def test_the_demo_runs_both_rules_and_draws_them(tmp_path: Path):
    result = program("r2ac.commands.demo", "corridor=2", "unroll=2", "total_steps=9_000", f"output={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "RTRL" in result.stdout
    assert "truncated BPTT" in result.stdout
    assert (tmp_path / "tmaze.png").stat().st_size > 10_000


@pytest.mark.soak
def test_the_maze_is_learned_under_rtrl_and_not_under_truncated_bptt(tmp_path: Path):
    result = program("r2ac.commands.demo", f"output={tmp_path}", seconds=280)
    assert result.returncode == 0, result.stderr
    success = {}
    for rule in ("segment", "tbptt"):
        rows = [json.loads(line) for line in (tmp_path / rule / "metrics.jsonl").read_text().splitlines()]
        success[rule] = sum(row["episode_return_mean"] for row in rows[-4:]) / 4
    assert success["segment"] > 0.95
    assert 0.4 < success["tbptt"] < 0.6


@pytest.mark.parametrize(
    "name", [entry.name for entry in entry_points(group="console_scripts") if entry.name.startswith("rtrl-")]
)
def test_help_lists_the_options(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    (entry,) = entry_points(group="console_scripts", name=name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    try:
        status = entry.load()()
    except SystemExit as ended:
        status = ended.code
    assert status == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("r2ac.commands.train", ["env=atari/brekout"], "unknown Atari game 'brekout': did you mean breakout"),
        ("r2ac.commands.train", ["actors.unrol=5"], "unknown option 'actors.unrol': did you mean actors.unroll"),
        ("r2ac.commands.train", ["actors.num_envs=-1"], "actors.num_envs must be at least 1, got -1"),
        ("r2ac.commands.train", ["actors.unroll=0"], "actors.unroll must be at least 1, got 0"),
        ("r2ac.commands.train", ["env=gym/CartPole-v1"], "the shallow encoder reads images"),
        ("r2ac.commands.train", ["env=gym/CartPol-v1"], "gymnasium has no environment 'CartPol-v1'"),
        (
            "r2ac.commands.train",
            ["fleet=local", "actors.device=cuda:7"],
            "actors.device=cuda:7: there is no such device here",
        ),
        (
            "r2ac.commands.train",
            ["fleet=local", "learner.device=tpu"],
            "learner.device=tpu: there is no such device here",
        ),
        ("r2ac.commands.train", ["resume=/nowhere/at/all"], "no checkpoint at /nowhere/at/all"),
        ("r2ac.commands.train", ["run_dir=/proc/nothing"], "No such file or directory"),
        ("r2ac.commands.evaluate", ["checkpoint=/nowhere"], "no checkpoint at /nowhere"),
        ("r2ac.commands.evaluate", ["checkpont=/nowhere"], "unknown option 'checkpont': did you mean checkpoint"),
        ("r2ac.commands.demo", ["corridor=0"], "corridor must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_clear_line_and_a_status(
    module: str, words: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    extra = (
        []
        if any(word.startswith("run_dir") for word in words) or module != "r2ac.commands.train"
        else [f"run_dir={tmp_path}/run"]
    )
    assert import_module(module).main([*words, *extra]) in (1, 2)
    errors = capfd.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert len([line for line in errors.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.seconds
def test_a_mistake_is_the_status_of_the_program(tmp_path: Path):
    result = program("r2ac.commands.train", "env=atari/brekout", f"run_dir={tmp_path}/run")
    assert result.returncode == 2
    assert "error: unknown Atari game 'brekout'" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_package_of_ours_is_the_one_that_is_imported():
    import importlib

    root = Path(__file__).resolve().parents[2]
    for package in ("actors", "conf", "envs", "learner", "r2ac", "rtrl_core"):
        found = importlib.import_module(package).__file__
        assert found is not None
        assert Path(found).is_relative_to(root)


@pytest.mark.slow
def test_training_in_one_process_needs_no_ray(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")
    command = [sys.executable, "-m", "r2ac.commands.train", *TOY_ATARI, "total_steps=32", f"run_dir={tmp_path}/run"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(120), env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] > 0


def test_every_benchmark_has_a_name_a_target_and_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from benchmarks import __main__ as program
    from benchmarks.measurement import at_least, at_most, in_turns, informs

    monkeypatch.setattr(program, "RESULTS", tmp_path / "latest.json")
    program._store("core", [at_least("core/a", 3.0, 2.0, "x", "here"), at_most("core/b", 3.0, 2.0, "x", "here")])
    program._store("env", [informs("env/c", 1.0, "steps/s", "here")])
    program._store("core", [at_least("core/a", 1.0, 2.0, "x", "here")])
    entries = json.loads((tmp_path / "latest.json").read_text())
    assert [(entry["name"], entry["met"]) for entry in entries] == [("env/c", None), ("core/a", False)]
    assert {"name", "value", "unit", "target", "met", "setting"} == set(entries[0])
    program._note(at_least("core/a", 4.0, 2.0, "x", "here"))
    program._note(informs("core/ab", 5.0, "x", "here"))
    values = {entry["name"]: entry["value"] for entry in json.loads((tmp_path / "latest.json").read_text())}
    assert values == {"env/c": 1.0, "core/a": 4.0, "core/ab": 5.0}
    assert program.main(["nonsense"]) == 2
    times = in_turns({"short": lambda: sum(range(10)), "long": lambda: sum(range(200_000))}, rounds=5)
    assert times["short"] < times["long"]
