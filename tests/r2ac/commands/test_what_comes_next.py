"""A run that ends says where it is and what one does next, and that works."""

import shlex
import tomllib
from pathlib import Path

import pytest

from conf.stored import from_yaml
from r2ac.commands.evaluate import main as evaluate
from r2ac.commands.report import main as report
from r2ac.commands.train import main as train
from r2ac.commands.train import what_comes_next
from r2ac.training.encoder_watch import SENTENCE

ROOT = Path(__file__).parents[3]
TOY = (
    *("experiment=tmaze", "env.corridor=3", "fleet=local", "fleet.num_actors=1", "actors.num_envs=4"),
    *("actors.unroll=4", "network.num_units=8", "total_steps=64", "logging.tensorboard=false"),
)


@pytest.mark.seconds
def test_the_commands_that_a_run_names_at_its_end_work_in_a_folder_with_a_blank(tmp_path: Path, capsys):
    folder = tmp_path / "my run"
    assert train([*TOY, f"run_dir={folder}"]) == 0
    where, following = capsys.readouterr().out.splitlines()[-2:]
    assert where.startswith(f"the run is in '{folder}'")
    commands = [shlex.split(command) for command in following.removeprefix("next: ").split("; ")]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert [command[0] for command in commands] == ["rtrl-evaluate", "rtrl-play", "rtrl-report"]
    assert {command[0] for command in commands} <= scripts.keys()
    assert evaluate([*commands[0][1:], "episodes=1", "num_envs=1"]) == 0
    assert report([*commands[2][1:], "--output", str(tmp_path / "page.html")]) == 0


@pytest.mark.seconds
def test_a_run_says_first_what_its_machine_made_of_it_and_keeps_that(tmp_path: Path, capsys):
    words = [*TOY, f"run_dir={tmp_path}/run", "actors.num_envs=null"]
    assert train(words) == 0
    fleet, updates = capsys.readouterr().out.splitlines()[:2]
    assert fleet.startswith(
        "1 actor (fleet.num_actors) of 8 streams (fleet.shared_streams), unrolls of 4 steps, on cpu"
    )
    assert updates.startswith(
        "an update of the weights for every 32 steps, 8 times an unroll of one stream (learner.target_lag)"
    )
    asked, sized = (from_yaml((tmp_path / "run" / f"{name}.yaml").read_text()) for name in ("config", "sized"))
    assert (asked.actors.num_envs, asked.learner.batch_segments) == (None, None)
    assert (sized.actors.num_envs, sized.learner.batch_segments) == (8, 8)
    assert sized.loss == asked.loss


@pytest.mark.seconds
def test_a_run_whose_encoder_dies_on_the_way_says_so_once(tmp_path: Path, capsys):
    words = [*TOY, f"run_dir={tmp_path}/run", "logging=quiet", "logging.interval_steps=16", "total_steps=480"]
    assert train([*words, "network.encoder=own_encoders:Dies", "actors.activations=recompute"]) == 0
    assert capsys.readouterr().err.count(SENTENCE) == 1
    assert train([*words, "network.encoder=none", f"run_dir={tmp_path}/none"]) == 0
    assert SENTENCE not in capsys.readouterr().err


@pytest.mark.seconds
def test_a_quiet_run_says_nothing(tmp_path: Path, capsys):
    assert train([*TOY, f"run_dir={tmp_path}/run", "logging=quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_of_a_run_elsewhere_only_its_place_is_named():
    assert what_comes_next("s3://bucket/run") == (
        "the run is in s3://bucket/run: the same command goes on, with a larger total_steps where it is finished"
    )
