"""Traces and bounded steps against the formulas, one number at a time."""

import pytest
import torch

from rtrl_core.traces import EligibilityTraces, bounded_step_sizes


@pytest.mark.parametrize("alpha", [1.0, 0.01])
@pytest.mark.parametrize("kappa", [2.0, 3.0])
def test_a_step_is_as_published(alpha: float, kappa: float):
    deltas = torch.tensor([0.0, 0.3, -0.3, 5.0, -70.0, 0.5])
    norms = torch.tensor([0.0, 0.001, 2.0, 40.0, 1e6, 0.2])
    for delta, norm, step in zip(deltas, norms, bounded_step_sizes(deltas, norms, alpha, kappa), strict=True):
        overshoot = alpha * kappa * max(abs(float(delta)), 1.0) * float(norm)
        assert float(step) == pytest.approx(alpha / overshoot if overshoot > 1 else alpha, rel=1e-6)
        # What it is for: of no update is the change of the output, to first order at most step |delta| |e|_1, above |delta| / kappa.
        assert float(step * norm) <= 1 / kappa + 1e-6


def test_each_stream_has_its_own_trace_and_a_share_in_the_update():
    parameters = [torch.nn.Parameter(torch.randn(2, 3)), torch.nn.Parameter(torch.randn(4))]
    before = [parameter.detach().clone() for parameter in parameters]
    traces, oracle = EligibilityTraces(parameters, 3), [[torch.zeros(2, 3), torch.zeros(4)] for _ in range(3)]
    for _ in range(5):
        for stream in (0, 2):
            gradients = [torch.randn(2, 3), torch.randn(4) if stream else None]
            traces.add(stream, gradients, 0.7)
            oracle[stream] = [
                0.7 * old + (0 if new is None else new) for old, new in zip(oracle[stream], gradients, strict=True)
            ]
    sums = torch.stack([sum((part.abs().sum() for part in parts), torch.zeros(())) for parts in oracle])
    torch.testing.assert_close(traces.norms(), sums)
    traces.move(torch.tensor([0.5, 1.0, -2.0]))
    for number, parameter in enumerate(parameters):
        torch.testing.assert_close(parameter.detach(), before[number] + 0.5 * oracle[0][number] - 2 * oracle[2][number])
    traces.reset(torch.tensor([False, False, True]))
    assert traces.norms().tolist() == [pytest.approx(float(sums[0])), 0.0, 0.0]


def test_a_stream_without_a_share_may_hold_anything():
    parameter = torch.nn.Parameter(torch.ones(2))
    traces = EligibilityTraces([parameter], 2)
    traces.vector[1] = torch.nan
    traces.move(torch.tensor([1.0, 0.0]))
    assert parameter.tolist() == [1.0, 1.0]
    traces.reset(torch.tensor([False, True]))
    assert traces.norms().tolist() == [0.0, 0.0]
