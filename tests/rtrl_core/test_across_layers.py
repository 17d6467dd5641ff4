"""Layers on top of each other: what per-layer sensitivities lose, and that with the one across layers nothing is lost."""

import pytest
import torch
from toy_parts import DenseCell

from rtrl_core import ELSTM, CrossLayerStack, DiagonalCore, ELSTMCell, StackedCore, UnrolledCore, carried
from rtrl_core.cores import Core, build_core

STREAMS = 3


def problem(core: Core, steps: int, first_rate: float = 0.1):
    inputs = torch.randn(steps, STREAMS, core.input_size, dtype=torch.float64)
    is_first = torch.rand(steps, STREAMS) < first_rate
    is_first[0] = True
    return inputs, is_first, torch.randn(steps, STREAMS, core.output_size, dtype=torch.float64)


def flat_gradient(core: Core, inputs, is_first, weights, length: int) -> torch.Tensor:
    core.zero_grad()
    state = core.initial_state(STREAMS)
    for start in range(0, len(inputs), length):
        rows = slice(start, start + length)
        outputs, state = core(inputs[rows], state, is_first[rows])
        (weights[rows] * outputs.sin()).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in core.parameters() if parameter.grad is not None])


def stack_of(cell: str, units: int, inputs: int, gated: bool = True) -> CrossLayerStack:
    if gated:
        core = build_core(cell, inputs, units, "segment", layers=2, across_layers="exact")
        assert isinstance(core, CrossLayerStack)
    else:
        lower = DiagonalCore(inputs, units, cell)
        core = CrossLayerStack(lower, DiagonalCore(lower.output_size, units, cell))
    return core.double()


@pytest.mark.parametrize(
    ("cell", "gated", "length"),
    [
        ("elstm", True, 1),
        ("elstm", True, 5),
        ("elstm", False, 20),
        ("lru", True, 5),
        ("slstm", True, 5),
        ("rtu", False, 5),
    ],
)
def test_with_credit_across_layers_two_layers_have_the_gradient_of_whole_episodes(cell: str, gated: bool, length: int):
    core = stack_of(cell, 4, 3, gated)
    inputs, is_first, weights = problem(core, 20)
    whole = flat_gradient(StackedCore(list(core.cores)), inputs, is_first, weights, 20)
    for in_one_pass in (False, True):
        if in_one_pass:
            core.advance_in_backward()
        ours = flat_gradient(core, inputs, is_first, weights, length)
        assert float((ours - whole).norm() / whole.norm()) < 1e-9


@pytest.mark.seconds
def test_at_32_units_it_is_exact_too():
    core = stack_of("elstm", 32, 33)
    inputs, is_first, weights = problem(core, 20, 0.05)
    whole = flat_gradient(StackedCore(list(core.cores)), inputs, is_first, weights, 20)
    assert float((flat_gradient(core, inputs, is_first, weights, 4) - whole).norm() / whole.norm()) < 1e-9


def test_it_carries_the_jacobian_of_the_upper_state_by_the_lower_parameters():
    core = stack_of("elstm", 3, 2)
    inputs, is_first, _ = problem(core, 6, 0.0)
    state = core.initial_state(STREAMS)
    for rows in (slice(0, 4), slice(4, 6)):
        _, state = core(inputs[rows], state, is_first[rows])
    lower, upper = core._below, core._above
    parameters = [parameter.detach().clone().requires_grad_() for parameter in lower.parameters()]

    def last(*parameters: torch.Tensor) -> torch.Tensor:
        each = [parameter.expand(STREAMS, *parameter.shape) for parameter in parameters]
        zeros = torch.zeros(STREAMS, 3, dtype=torch.float64)
        hidden, _ = lower.trace(each, inputs, zeros, is_first)
        above = [parameter.detach().expand(STREAMS, *parameter.shape) for parameter in upper.parameters()]
        return upper.trace(above, hidden, zeros, is_first)[1]

    jacobian = torch.autograd.functional.jacobian(last, tuple(parameters))
    expected = torch.cat([part.flatten(2) for part in jacobian], -1)
    torch.testing.assert_close(state.sensitivity.across, expected, rtol=1e-9, atol=1e-12)


def cosines(
    layers: int, forget_bias: float, length: int, rule: str, all_layers: bool
) -> tuple[float, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    stack = [
        DiagonalCore(8 if layer == 0 else 16, 16, ELSTMCell(forget_bias=forget_bias), rule) for layer in range(layers)
    ]
    core = StackedCore(stack).double()
    inputs, is_first, weights = problem(core, 120, 0.0)
    if not all_layers:
        weights[..., :-16] = 0
    whole = flat_gradient(core, inputs, is_first, weights, 120)
    ours = flat_gradient(core, inputs, is_first, weights, length)
    return float(torch.nn.functional.cosine_similarity(ours, whole, dim=0)), ours, whole


@pytest.mark.seconds
def test_two_layers_that_remember_keep_most_of_their_credit_where_truncation_loses_it():
    """docs/how-it-works.md: forget bias 3, T = 20."""
    carried, _, _ = cosines(2, 3.0, 20, "segment", all_layers=True)
    truncated, _, _ = cosines(2, 3.0, 20, "tbptt", all_layers=True)
    assert carried >= 0.96
    assert truncated < 0.90


def test_the_top_layer_is_exact_whatever_lies_below():
    _, ours, whole = cosines(3, 3.0, 5, "segment", all_layers=False)
    top = sum(parameter.numel() for parameter in DiagonalCore(16, 16).parameters())
    torch.testing.assert_close(ours[-top:], whole[-top:], rtol=1e-9, atol=1e-12)
    assert float((ours - whole).norm() / whole.norm()) > 0.01


def test_acting_and_carrying_a_cross_layer_stack():
    core = stack_of("slstm", 4, 3)
    inputs, is_first, _ = problem(core, 5)
    outputs, state = core(inputs, core.initial_state(STREAMS), is_first)
    cell = core.initial_state(STREAMS).cell
    for t in range(5):
        given, cell = core.step(inputs[t], cell, is_first[t])
        torch.testing.assert_close(given, outputs[t].detach())
    again = carried.load(core.initial_state(STREAMS), carried.save(state))
    assert all(torch.equal(*pair) for pair in zip(carried.leaves(again), carried.leaves(state), strict=True))
    norms = core.stream_norms(state.sensitivity)
    assert norms is not None
    state.sensitivity.across[1, 0, 0] = float("inf")
    broken = core.stream_norms(state.sensitivity)
    assert broken is not None
    assert broken.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CrossLayerStack(ELSTM(3, 129), ELSTM(129, 4)),
            "for up to 128 units per layer, got 129: use fewer, or credit per",
        ),
        (
            lambda: CrossLayerStack(ELSTM(3, 4, "tbptt"), ELSTM(4, 4)),
            "under rule segment or reference, not for rule tbptt",
        ),
        (lambda: CrossLayerStack(UnrolledCore(DenseCell(3, 4)), ELSTM(4, 4)), "not for UnrolledCore"),
        (lambda: build_core("elstm", 3, 4, "segment", layers=3, across_layers="exact"), "for two layers, got 3"),
        (lambda: build_core("feedforward", 3, 4, "segment", layers=2), "feedforward just one, got 2"),
        (lambda: build_core("elstm", 3, 4, "segment", layers=2, across_layers="all"), "expected one of local, exact"),
    ],
)
def test_layers_that_do_not_fit_say_so(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
