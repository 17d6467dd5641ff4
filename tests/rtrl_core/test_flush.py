"""Numbers too small to matter are set to zero before a CPU computes them slowly; which are, depends on the size of the loss."""

import math

import pytest
import torch
from unrolled import DIAGONAL_RULES, EVERY_CELL

from rtrl_core import DiagonalCore
from rtrl_core.rules.single import adjoints, decays
from rtrl_core.rules.starts import Starts

TINY = torch.finfo(torch.float32).tiny
ROOT = math.sqrt(TINY)
NO_STARTS = Starts.of(torch.zeros(200, 2, dtype=torch.bool))


@pytest.mark.seconds
@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("cell", EVERY_CELL)
@pytest.mark.parametrize("rule", DIAGONAL_RULES)
def test_the_gradient_is_linear_in_the_scale_of_the_loss(rule: str, cell: str, scale: float):
    core = DiagonalCore(3, 5, cell, rule)
    inputs, weights = torch.randn(60, 2, 3), torch.randn(60, 2, core.output_size)
    is_first = torch.rand(60, 2) < 0.05
    gradients = []
    for size in (1.0, scale):
        core.zero_grad()
        x, state = inputs.clone().requires_grad_(), core.initial_state(2)
        for rows in (slice(0, 25), slice(25, 60)):
            outputs, state = core(x[rows], state, is_first[rows])
            outputs.backward(size * weights[rows])
        gradients.append(
            [leaf.grad.double() / size for leaf in (x, core.matrices, core.vectors) if leaf.grad is not None]
        )
    for scaled, plain in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6 * float(plain.abs().max()))


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_an_adjoint_that_has_decayed_to_nothing_is_zero_and_never_subnormal(scale: float):
    immediate = torch.zeros(200, 2, 3)
    immediate[-1] = scale
    adjoint, before = adjoints(immediate, torch.full_like(immediate, 0.5), NO_STARTS)
    assert not adjoint[0].any()
    assert not before.any()
    kept = adjoint[adjoint != 0]
    assert kept.min() > TINY
    assert kept.min() < 1e3 * max(scale * ROOT, TINY)


def test_an_adjoint_is_negligible_against_its_own_stream_and_unit_only():
    immediate = torch.ones(200, 2, 3)
    immediate[:, 0] = 1e-30
    immediate[100, 1, 0] = math.nan
    immediate[100, 1, 1] = math.inf
    adjoint, _ = adjoints(immediate, torch.full_like(immediate, 0.5), NO_STARTS)
    torch.testing.assert_close(adjoint[0, 0], torch.full((3,), 2e-30), rtol=1e-5, atol=0)
    assert adjoint[101:, 1].isfinite().all()
    assert not adjoint[100, 1, :2].isfinite().any()
    torch.testing.assert_close(adjoint[0, 1, 2], torch.tensor(2.0))


def test_a_product_of_many_decays_is_zero_and_never_subnormal():
    after, total = decays(torch.full((200, 2, 3), 0.5))
    assert not after[0].any()
    assert not total.any()
    assert after[after != 0].min() > TINY
