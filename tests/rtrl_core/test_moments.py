"""Running moments against numpy over the whole history."""

import numpy as np
import pytest
import torch

from rtrl_core import FlatParameters
from rtrl_core.moments import RunningMoments


@pytest.mark.parametrize("sizes", [[1] * 40, [3] * 20, [1, 7, 2, 0, 5]], ids=str)
def test_moments_are_those_of_the_whole_history(sizes: list[int]):
    random = np.random.default_rng(0)
    moments, history = RunningMoments(3), np.zeros((0, 3))
    for size in sizes:
        samples = random.normal([5.0, -100.0, 0.0], [0.1, 20.0, 3.0], (size, 3))
        moments.update(torch.from_numpy(samples))
        history = np.concatenate([history, samples])
        mean, deviation = moments.moments()
        spread = history.var(0, ddof=1) if len(history) > 1 else np.ones(3)
        np.testing.assert_allclose(mean.numpy(), history.mean(0), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(deviation.numpy(), np.sqrt(spread + 1e-8), rtol=1e-7)
    mean, deviation = moments.moments()
    seen = torch.randn(4, 3)
    torch.testing.assert_close(moments.normalised(seen), (seen - mean.float()) / deviation.float())


def test_before_anything_was_seen_nothing_is_changed():
    moments = RunningMoments(2)
    moments.update(torch.zeros(0, 2))
    torch.testing.assert_close(moments.normalised(torch.tensor([[3.0, -2.0]])), torch.tensor([[3.0, -2.0]]))
    torch.testing.assert_close(RunningMoments(1).scaled(torch.tensor([3.0])), torch.tensor([3.0]))


def test_they_go_on_counting_where_a_single_float32_would_stop():
    moments = RunningMoments(1)
    with torch.no_grad():
        moments.pairs[0, 0] = 2.0**24
    for _ in range(3):
        moments.update(torch.tensor([[1.0]]))
    assert float(moments.pairs[:, 0].double().sum()) == 2**24 + 3


def test_they_lie_in_the_flat_vector_and_get_no_gradient():
    module = torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 1), "moments": RunningMoments(2)})
    flat, other = FlatParameters(module), RunningMoments(2)
    moments = module["moments"]
    assert isinstance(moments, RunningMoments)
    moments.update(torch.tensor([[1.0, 2.0], [3.0, 7.0]]))
    slot = next(slot for slot in flat.layout.slots if slot.name == "moments.pairs")
    assert torch.equal(slot.view(flat.vector), moments.pairs)
    other.pairs.data = slot.view(flat.vector.clone())
    assert torch.equal(other.moments()[0], torch.tensor([2.0, 4.5], dtype=torch.float64))
    assert not slot.view(flat.gradient).any()
    assert moments.pairs.grad is None
