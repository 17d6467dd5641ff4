"""The examples run as they are written, and show what they say."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(name: str, *words: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(250), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tried_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "core_in_your_loop.py",
        "own_cell.py",
        "own_environment.py",
    }


@pytest.mark.slow
def test_the_core_in_ones_own_loop_learns_what_no_unroll_holds():
    main = runpy.run_path(str(EXAMPLES / "core_in_your_loop.py"))["main"]
    assert main(delay=8, updates=150) > 0.95
    assert main(delay=8, updates=100, rule="tbptt") < 0.75


@pytest.mark.slow
def test_an_environment_of_ones_own_is_trained_and_evaluated(tmp_path: Path):
    assert "own_environment:ECHO/echo" in output_of("own_environment.py", str(tmp_path / "run"))
    # Of 39 answers; who guesses has 13.
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["mean_return_100"] > 25


@pytest.mark.slow
def test_a_cell_of_ones_own_is_exact_and_trains(tmp_path: Path):
    said = output_of("own_cell.py", str(tmp_path / "run"))
    apart = float(said.split("whole sequence: ")[1].split()[0])
    assert apart < 1e-12
    assert (tmp_path / "run" / "summary.json").exists()
