"""The same numbers and the same training on a CUDA device. `make test-gpu` runs them where there is one."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from local_run import LocalRun, double_precision, local_run
from patience import patience
from unrolled import full_gradient

from actors.build import build_network
from actors.stem import JoinedStem, RetainedStem, StemPass, StepInput, choose_stem
from conf.load import load_train
from learner.learner import GradientPlan
from learner.q_learner import QPlan
from learner.trajectory_learner import TrajectoryPlan
from r2ac.training.build import describe_environment
from r2ac.training.sizing import sized
from rtrl_core import (
    CELLS,
    ContributionHeader,
    DiagonalCore,
    FlatParameters,
    GradientContribution,
    WeightsSnapshot,
)

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


def fingerprint(run: LocalRun) -> str:
    assert isinstance(run.plan, GradientPlan)
    return run.plan.layout.fingerprint


def gradient_message(run: LocalRun, gradient: torch.Tensor, sequence: int) -> GradientContribution:
    header = ContributionHeader(0, 0, sequence, 0, num_steps=8, num_frames=32, num_segments=4)
    contribution = run.unroll(0, WeightsSnapshot(0, fingerprint(run), run.vector))
    assert isinstance(contribution, GradientContribution)
    return replace(contribution, header=header, gradient=gradient)


@contextmanager
def never_waiting() -> Iterator[None]:
    """An error where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_tf", "adam"])
def test_of_gradients_a_learner_on_the_device_makes_what_one_on_the_cpu_makes_and_does_not_wait_for_what_it_adds(
    optimizer: str,
):
    words = ["fleet=local", "env=tmaze", "network=none", "fleet.num_actors=1", f"learner.optimizer={optimizer}"]
    run = local_run(sized(load_train([*words, "learner.mode=sync", "actors.num_envs=4"]), 1))
    plan = run.plan
    assert isinstance(plan, GradientPlan)
    here, there = (replace(plan, config=replace(plan.config, device=d)).begin(run.vector) for d in ("cpu", "cuda"))
    lies = torch.zeros(plan.layout.size)
    for slot in plan.layout.slots:
        slot.view(lies).fill_(1)
    for sequence, size in enumerate((1e-3, 1.0, 1e20, 1e30, 1.0)):
        message = gradient_message(run, lies * size * torch.randn(len(lies)), sequence)
        here.add(message)
        if sequence:  # the first makes the buffers
            with never_waiting():
                there.add(message)
        else:
            there.add(message)
        ours, theirs = there.finish_round().update, here.finish_round().update
        assert ours is not None
        assert theirs is not None
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-5)
        assert ours.part_norms == pytest.approx(theirs.part_norms, rel=1e-5)
    run.fleet.close()
    torch.testing.assert_close(there.snapshot().vector, here.snapshot().vector, rtol=1e-4, atol=1e-6)


def test_an_actor_waits_for_its_device_once_per_step_and_a_few_times_per_unroll():
    words = ["fleet=local", "env=atari/breakout", "network=nature", "fleet.num_actors=1", "actors.device=cuda"]
    run = local_run(sized(load_train([*words, "actors.num_envs=4", "actors.unroll=20"]), 1))
    weights = WeightsSnapshot(0, fingerprint(run), run.vector)
    for _ in range(3):
        assert run.unroll(0, weights).statistics.cuda_graphs
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run.unroll(0, weights)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    run.fleet.close()
    found = [str(one.message) for one in waits if "synchroniz" in str(one.message)]
    assert 20 <= len(found) <= 20 + 20, found


def assert_same_changes(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Of the weights, as a whole: an optimizer makes full steps of the smallest gradients, whose signs are rounding."""
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.99
    assert ours.norm() == pytest.approx(float(theirs.norm()), rel=0.02)


@pytest.fixture(autouse=True)
def _whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions are otherwise computed in TensorFloat-32, which has ten bits less."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


IMPALA = ("algorithm=impala", "algorithm.options.ship=trajectories_s0")


def test_of_trajectories_a_learner_on_the_device_makes_what_one_on_the_cpu_makes():
    small = ("actors.num_envs=4", "fleet.num_actors=1", "learner.optimizer=rmsprop", "actors.autocast=float32")
    run = local_run(sized(load_train(["fleet=local", "env=atari/breakout", "network=nature", *small, *IMPALA]), 1))
    assert isinstance(run.plan, TrajectoryPlan)
    here, there = run.plan.begin(run.vector, "cpu"), run.plan.begin(run.vector, "cuda")
    for _ in range(3):
        contribution = run.unroll(0, here.snapshot())
        ours, theirs = there.add(contribution), here.add(contribution)
        assert ours.statistics.policy_loss == pytest.approx(theirs.statistics.policy_loss, rel=2e-2, abs=0.05)
        for learner in (here, there):
            learner.finish_round()
    run.fleet.close()
    assert_same_changes(there.snapshot().vector - run.vector, here.snapshot().vector - run.vector)


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
    assert_same_changes(there.snapshot().vector - run.vector, here.snapshot().vector - run.vector)


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


SEVERAL_PASSES = ("algorithm.options.passes=3", "loss.clip_ratio=0.2")


@pytest.mark.parametrize(
    "algorithm",
    [(), SEVERAL_PASSES, IMPALA, R2D2, ("actors.pipeline=2",)],
    ids=["r2ac", "several passes", "impala", "r2d2", "groups of streams"],
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
