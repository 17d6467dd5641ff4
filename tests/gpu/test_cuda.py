"""The same numbers and the same training on a CUDA device. `make test-gpu` runs them where there is one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from local_run import double_precision, local_run
from patience import patience
from unrolled import full_gradient

from actors.build import build_network
from actors.stem import JoinedStem, RetainedStem, StemPass, StepInput, choose_stem
from conf.load import load_train
from learner.q_learner import QPlan
from learner.trajectory_learner import TrajectoryPlan
from r2ac.training.build import describe_environment
from r2ac.training.sizing import sized
from rtrl_core import CELLS, DiagonalCore, FlatParameters

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


IMPALA = ("algorithm=impala", "algorithm.options.ship=trajectories_s0")


def test_of_trajectories_a_learner_on_the_device_makes_what_one_on_the_cpu_makes():
    small = ("actors.num_envs=4", "fleet.num_actors=1", "learner.optimizer=rmsprop", "actors.autocast=float32")
    run = local_run(sized(load_train(["fleet=local", "env=atari/breakout", "network=nature", *small, *IMPALA]), 1))
    assert isinstance(run.plan, TrajectoryPlan)
    here, there = run.plan.begin(run.vector, "cpu"), run.plan.begin(run.vector, "cuda")
    for _ in range(3):
        contribution = run.unroll(0, here.snapshot())
        ours, theirs = there.add(contribution), here.add(contribution)
        assert ours.statistics.policy_loss == pytest.approx(theirs.statistics.policy_loss, rel=1e-3, abs=1e-3)
        for learner in (here, there):
            learner.finish_round()
    run.fleet.close()
    torch.testing.assert_close(there.snapshot().vector, here.snapshot().vector, rtol=1e-3, atol=1e-4)


R2D2 = (
    *(
        "algorithm=r2d2",
        "rule=tbptt",
        "actors.unroll=10",
        "algorithm.options.burn_in=10",
        "algorithm.options.length=20",
    ),
    *("algorithm.options.batch_sequences=4", "algorithm.options.min_sequences=8", "network.head_sizes=[16]"),
)


@pytest.mark.parametrize("through", [False, True])
def test_of_sequences_a_learner_on_the_device_makes_what_one_on_the_cpu_makes(through: bool):
    small = ("actors.num_envs=4", "fleet.num_actors=1", "actors.autocast=float32", "learner.mode=sync")
    words = [*R2D2, *small, f"algorithm.options.burn_in_gradient={through}"]
    run = local_run(sized(load_train(["fleet=local", "env=atari/breakout", "network=nature", *words]), 1))
    assert isinstance(run.plan, QPlan)
    here, there = run.plan.begin(run.vector, "cpu"), run.plan.begin(run.vector, "cuda")
    for _ in range(8):
        contribution = run.unroll(0, here.snapshot())
        for learner in (here, there):
            learner.add(contribution)
            learner.finish_round()
    run.fleet.close()
    assert here.counters.updates == there.counters.updates > 0
    torch.testing.assert_close(there.snapshot().vector, here.snapshot().vector, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("encoder", ["nature", "impala"])
def test_the_way_back_over_joined_steps_is_that_over_each(encoder: str):
    with double_precision():
        config = sized(
            load_train(["env=atari/breakout", f"network={encoder}", "actors.num_envs=4", "fleet.num_actors=1"]), 1
        )
        network = build_network(config.network, config.rule, describe_environment(config, print)).to("cuda")
        parameters = FlatParameters(network)
        frames = torch.randint(0, 255, (5, 4, 4, 84, 84), dtype=torch.uint8, device="cuda")
        none = torch.zeros(4, device="cuda")
        steps = [StepInput(frame, none, none.long(), none.bool(), None) for frame in frames]
        options = {"activations": "retain", "budget_bytes": 0, "autocast": None, "passes": 5}
        joined = choose_stem(network, **options, example=steps[0])
        assert isinstance(joined, JoinedStem)
        gradients = []
        for stem in (joined, RetainedStem(StemPass(network, None))):
            outputs = torch.stack([stem.inputs(step) for step in steps])
            stem.backward(torch.linspace(-1, 1, outputs.numel(), device="cuda", dtype=outputs.dtype).view_as(outputs))
            gradients.append(parameters.gradient.clone())
            parameters.gradient.zero_()
        assert (gradients[0] - gradients[1]).abs().max() < 1e-9 * gradients[1].abs().max()


@pytest.mark.parametrize(
    "algorithm", [(), IMPALA, R2D2, ("actors.pipeline=2",)], ids=["r2ac", "impala", "r2d2", "groups of streams"]
)
@pytest.mark.parametrize("fleet", ["local", "ray"])
def test_breakout_trains_with_actors_and_learner_on_the_device(tmp_path: Path, fleet: str, algorithm: tuple[str, ...]):
    words = [
        *algorithm,
        *(f"fleet={fleet}", "fleet.num_actors=1", "actors.device=cuda", "learner.device=cuda", f"run_dir={tmp_path}"),
        *("actors.num_gpus=0.5", "learner.num_gpus=0.5", "total_steps=2_000", "logging.terminal=plain"),
    ]
    command = [sys.executable, "-m", "r2ac.commands.train", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=patience(280), check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "summary.json").is_file()
