"""Compiled or not, the same numbers: outputs, gradients and what is carried, over unrolls with episodes that begin inside."""

import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

PROGRAM = Path(__file__).parents[1] / "compiled_layer.py"


def tried(*cases: str, warnings: str = "error") -> None:
    command = [sys.executable, "-W", warnings, str(PROGRAM), *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(250), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(cases)


@pytest.mark.slow
def test_compiled_networks_train_as_they_do_uncompiled_and_no_graph_goes_through_the_layer():
    tried("through-autograd", "stacked-tbptt", "whole-graph", "once")


@pytest.mark.soak
@pytest.mark.parametrize("case", ["segment", "reference", "inductor", "core-segment", "core-reference", "core-tbptt"])
def test_also_by_the_compiler_of_the_machine_and_for_a_bare_core(case: str):
    tried(case, warnings="ignore")
