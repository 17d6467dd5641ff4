"""IMPALA against R2AC: where no weights have changed in between, one is the other, whatever is shipped."""

from functools import partial
from typing import Any

import pytest
import torch

from actors.fleet import FleetState, LocalFleet
from conf.load import load_train
from learner.algorithms import find_algorithm
from learner.clients import LocalLearner
from learner.schedules import SCHEDULES
from r2ac.training.build import describe_environment, initial_weights

TOY = ["fleet=local", "actors.unroll=5", "learner.mode=sync", "learner.batch_segments=1", "logging=quiet"]
MAZE = ["experiment=tmaze", "env.corridor=3", "actors.num_envs=4", "network.num_units=6"]


@pytest.fixture(autouse=True)
def _in_double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(words: list[str], updates: int = 6) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Weights after so many updates, and the statistics of the last round."""
    config = load_train([*TOY, *words])
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    algorithm = find_algorithm(config.algorithm)
    algorithm.require(config)
    plan = algorithm.plan(config, spec, layout)
    assert config.fleet.num_actors is not None
    fleet = LocalFleet(config, config.fleet.num_actors, FleetState(), print, partial(algorithm.worker, config))
    learner = LocalLearner(plan, plan.first_state(vector))
    rounds = SCHEDULES["sync"](fleet, learner, 1)
    receipts = []
    while learner.weights.version < updates:
        receipts = next(rounds).receipts
    fleet.close()
    return learner.weights.vector, [receipt.statistics for receipt in receipts]


@pytest.mark.parametrize("num_actors", [1, 3])
@pytest.mark.parametrize(
    ("core", "rule"),
    [
        ("elstm", "segment"),
        ("elstm", "tbptt"),
        ("lstm", "tbptt"),
        ("lstm", "snap1"),
        ("feedforward", "tbptt"),
        ("slstm", "segment"),
    ],
)
def test_without_lag_its_weights_are_those_of_r2ac(core: str, rule: str, num_actors: int):
    words = [*MAZE, f"network.core={core}", f"rule={rule}", f"fleet.num_actors={num_actors}"]
    carries = core != "feedforward" and rule != "tbptt"
    ship = f"algorithm.options.ship=trajectories{'_s0' if carries else ''}"
    expected, theirs = trained(words)
    found, ours = trained([*words, "algorithm=impala", ship])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for one, other in zip(ours, theirs, strict=True):
        assert one.policy_loss == pytest.approx(other.policy_loss)
        assert one.importance_sum == pytest.approx(5 * 4)
        assert other.importance_sum is None
