"""Ten minutes of training for each thing that actors ship: memory does not grow and the object store stays bounded (`make test-long`)."""

from collections.abc import Callable

import pytest

from benchmarks import memory
from benchmarks.measurement import Result


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "measured",
    [memory.of_gradients, memory.of_trajectories, memory.of_replay],
    ids=["gradients", "trajectories", "replay"],
)
def test_a_long_run_does_not_grow(measured: Callable[[float], list[Result]]):
    results = measured(100)
    assert {result.met for result in results} == {True, None}, results
