"""What version 0.1.0 has written is read, and gone on with as it would have gone on itself."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.learning import FIRST_BREAKOUT
from conf.load import config_hash, load_train
from r2ac.commands import evaluate, report
from r2ac.commands import train as training_program
from r2ac.persistence import checkpoint as checkpoints

WRITTEN = Path(__file__).parents[2] / "data" / "run_0_1"
"""A T-maze in ``sync`` with two actors: its checkpoints at 240 and at 480 steps."""
CHANGELOG = Path(__file__).parents[3] / "CHANGELOG.md"
WORDS = [
    *("experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=2", "actors.num_envs=4"),
    *("actors.unroll=3", "network.num_units=6", "network.encoder=mlp", "network.mlp_sizes=[4]", "network.features=4"),
    *("learner.mode=sync", "actors.autocast=float32", "total_steps=480", "name=run_0_1", "logging=quiet"),
    *("logging.interval_steps=120", "logging.checkpoint_interval_steps=120", "logging.keep_checkpoints=10"),
]


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    shutil.copytree(WRITTEN, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.seconds
def test_a_run_goes_on_in_the_middle_of_its_games_to_the_weights_that_it_had_then(old_run: Path, capsys):
    expected = checkpoints.load(checkpoints.find(old_run))
    shutil.rmtree(old_run / "checkpoints" / "000000000480")
    assert training_program.main([*WORDS, f"run_dir={old_run}"]) == 0
    now = checkpoints.load(checkpoints.find(old_run))
    assert now.agent_steps == expected.agent_steps == 480
    assert now.version == expected.version
    torch.testing.assert_close(now.vector, expected.vector, rtol=1e-4, atol=1e-6)
    assert "begin new games" not in capsys.readouterr().out
    for actor_id, state in expected.fleet.actors.items():
        torch.testing.assert_close(now.fleet.actors[actor_id]["cell"], state["cell"], rtol=1e-4, atol=1e-6)
        ours, theirs = now.fleet.actors[actor_id]["sensitivity"], state["sensitivity"]
        assert ours.keys() == theirs.keys()
        torch.testing.assert_close(ours["matrices"], theirs["matrices"], rtol=1e-3, atol=1e-5)


def test_the_same_configuration_has_the_hash_that_it_had_then():
    then = json.loads((WRITTEN / "summary.json").read_text())["config_hash"]
    assert config_hash(load_train(WORDS)) == then
    assert config_hash(load_train([*WORDS, "network.core_options.forget_bias=1"])) != then


@pytest.mark.seconds
def test_a_run_is_evaluated_and_reported(old_run: Path, tmp_path: Path):
    assert evaluate.main([f"checkpoint={old_run}", "episodes=4", f"output={tmp_path}/score.json"]) == 0
    assert (tmp_path / "score.json").exists()
    assert report.main([str(old_run), "--output", str(tmp_path / "report.html")]) == 0


@pytest.mark.seconds
def test_a_run_of_what_make_train_was_is_refused_in_one_line_and_goes_on_with_its_words(tmp_path: Path, capsys):
    words = ["fleet=local", "fleet.num_actors=1", "actors.autocast=float32", "logging=quiet", f"run_dir={tmp_path}/run"]
    assert training_program.main([*words, *FIRST_BREAKOUT, "total_steps=320"]) == 0
    capsys.readouterr()
    assert training_program.main([*words, "total_steps=2000"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "network" in line
    said = re.search(r"refused with one line; with `([^`]+)` it goes on", CHANGELOG.read_text().replace("\n  ", " "))
    assert said is not None
    assert set(said[1].split()) == set(FIRST_BREAKOUT)
    assert training_program.main([*words, *said[1].split(), "total_steps=2000"]) == 0
    assert checkpoints.load(checkpoints.find(tmp_path / "run")).agent_steps >= 2000
