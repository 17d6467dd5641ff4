"""``algorithm.options.passes`` as a program: on Ray as in one process, and gone on with in the middle of an unroll's passes."""

from pathlib import Path

import pytest
import torch

from r2ac.commands import train
from r2ac.persistence import checkpoint as checkpoints

WORDS = [
    *("experiment=tmaze", "env.corridor=6", "network.encoder=mlp", "network.features=6", "network.num_units=8"),
    *("fleet.num_actors=2", "actors.num_envs=4", "actors.unroll=5", "actors.num_cpus=0.5", "learner.mode=sync"),
    *("learner.learning_rate=0.01", "learner.final_learning_rate=0.01", "logging=quiet", "logging.interval_steps=40"),
    *("fleet.object_store_bytes=80_000_000", "algorithm.options.passes=3", "loss.clip_ratio=0.2"),
]
ROUND = 2 * 4 * 5
"""Agent steps of a first pass of both actors."""


def trained(run_dir: Path, *words: str) -> checkpoints.Checkpoint:
    assert train.main([*WORDS, *words, f"run_dir={run_dir}"]) == 0
    return checkpoints.load(checkpoints.find(run_dir))


@pytest.mark.slow
def test_on_ray_it_ends_where_it_ends_in_one_process(tmp_path: Path):
    on_ray, local = (trained(tmp_path / kind, f"fleet={kind}", f"total_steps={3 * ROUND}") for kind in ("ray", "local"))
    assert on_ray.agent_steps == local.agent_steps == 3 * ROUND
    assert torch.equal(on_ray.vector, local.vector)
    assert local.learner["counters"]["updates"] == 7, "three passes of two rounds, and the first of the third"


@pytest.mark.slow
def test_in_async_mode_on_ray_every_contribution_is_accepted_once(tmp_path: Path):
    run = trained(tmp_path, "fleet=ray", "learner.mode=async", f"total_steps={12 * ROUND}")
    counters = run.learner["counters"]
    assert counters["agent_steps"] >= 12 * ROUND
    assert counters["dropped"] == counters["refused"] == 0
    unrolls = counters["agent_steps"] / (ROUND / 2)
    assert 3 * unrolls - 4 <= counters["accepted"] <= 3 * unrolls


@pytest.mark.seconds
@pytest.mark.parametrize("pipeline", [1, 2])
def test_a_run_that_ended_between_two_passes_goes_on_bit_for_bit(pipeline: int, tmp_path: Path):
    """It ends with the steps of a first pass; two more passes of them come when it goes on."""
    words = ("fleet=local", f"actors.pipeline={pipeline}")
    whole = trained(tmp_path / "whole", *words, f"total_steps={6 * ROUND}")
    half = trained(tmp_path / "parts", *words, f"total_steps={3 * ROUND}")
    parts = trained(tmp_path / "parts", *words, f"total_steps={6 * ROUND}")
    assert half.agent_steps == 3 * ROUND
    assert parts.agent_steps == whole.agent_steps == 6 * ROUND
    assert not torch.equal(half.vector, whole.vector)
    assert torch.equal(parts.vector, whole.vector)
