"""The recipe of docs/environments.md, as a user follows it: a file in an empty folder, and the command below it."""

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from patience import patience

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"


@pytest.mark.slow
def test_the_recipe_for_an_environment_of_ones_own_trains(tmp_path: Path):
    """By the installed program, whose path lacks the current folder."""
    module = re.search(r"say `(\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    command = re.search(r"```sh\nrtrl-train (.*?)\n```", PAGE.read_text())
    assert module is not None
    assert command is not None
    (tmp_path / module[1]).write_text(module[2])
    program = Path(sysconfig.get_path("scripts")) / "rtrl-train"
    toy = ["fleet.num_actors=1", "actors.num_envs=4", "network.num_units=8", "total_steps=400", "logging=quiet"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(program), *command[1].split(), *toy],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "runs" / "gym_lamp_Lamp-v0" / "summary.json").exists()


@pytest.mark.soak
def test_the_recipe_for_a_suite_of_ones_own_is_examined_trained_and_evaluated(tmp_path: Path):
    page = PAGE.read_text().partition("## A suite of your own")[2]
    module = re.search(r"say `(\w+\.py)`.*?:\n\n```python\n(.*?)```", page, re.DOTALL | re.IGNORECASE)
    commands = re.search(r"```sh\n(.*?)\n```", page, re.DOTALL)
    assert module is not None
    assert commands is not None
    (tmp_path / module[1]).write_text(module[2])
    toy = {
        "rtrl-train": [
            "fleet.num_actors=1",
            "actors.num_envs=4",
            "network.num_units=8",
            "total_steps=400",
            "logging=quiet",
        ],
        "rtrl-evaluate": ["episodes=2", "output=scores.json"],
    }
    environment = {**os.environ, "PYTHONPATH": str(PAGE.parents[1])}  # the programs' path lacks the current folder
    for program, *words in map(str.split, commands[1].splitlines()):
        result = subprocess.run(
            [str(Path(sysconfig.get_path("scripts")) / program), *words, *toy.get(program, [])],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=patience(120),
            check=False,
        )
        assert result.returncode == 0, (program, result.stdout, result.stderr)
        assert program != "rtrl-doctor" or "dice/fair: reset, 10 steps, no picture" in result.stdout
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["environment"] == "dice:DICE/fair"
    assert [result["policy"] for result in document["results"]] == ["greedy", "sampled"]
