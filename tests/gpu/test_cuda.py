"""The same numbers and the same training on a CUDA device. `make test-gpu` runs them where there is one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import patience
from unrolled import full_gradient

from rtrl_core import CELLS, DiagonalCore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("rule", ["segment", "reference"])
def test_the_gradient_on_the_device_is_that_of_the_whole_episode(
    rule: str, cell: str, dtype: torch.dtype, tolerance: float
):
    core = DiagonalCore(17, 33, cell, rule).to("cuda", dtype)
    inputs = torch.randn(20, 5, 17, device="cuda", dtype=dtype)
    is_first = torch.rand(20, 5, device="cuda") < 0.15
    is_first[0] = True
    weights = torch.randn(20, 5, core.output_size, device="cuda", dtype=dtype)
    state, start = core.initial_state(5), 0
    for length in (7, 1, 12):
        rows = slice(start, start + length)
        outputs, state = core(inputs[rows], state, is_first[rows])
        (weights[rows] * outputs.sin()).sum().backward()
        start += length
    matrices, vectors, _ = full_gradient(core.cell, core.matrices, core.vectors, inputs, is_first, weights)
    for ours, exact in ((core.matrices.grad, matrices), (core.vectors.grad, vectors)):
        assert ours is not None
        assert (ours - exact).abs().max() / exact.abs().max() < tolerance


@pytest.mark.parametrize("fleet", ["local", "ray"])
def test_breakout_trains_with_actors_and_learner_on_the_device(tmp_path: Path, fleet: str):
    words = [
        *(f"fleet={fleet}", "fleet.num_actors=1", "actors.device=cuda", "learner.device=cuda", f"run_dir={tmp_path}"),
        *("actors.num_gpus=0.5", "learner.num_gpus=0.5", "total_steps=2_000", "logging.terminal=plain"),
    ]
    command = [sys.executable, "-m", "r2ac.commands.train", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=patience(280), check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "summary.json").is_file()
