"""After a reset everything is finite, whatever came before: for every cell, rule and length of an unroll.

NaN times zero is NaN, so a reset that multiplies never clears a stream that was broken once.
"""

import math
from typing import NamedTuple

import pytest
import torch
from unrolled import DIAGONAL_RULES, EVERY_CELL, full_gradient

from rtrl_core import CoreState, DiagonalCore, GatedCore, NetworkSpec, PolicyNetwork, Sensitivity
from rtrl_core.encoders import InstructionEncoder
from rtrl_core.policies import Categorical, DiagonalGaussian
from rtrl_core.rules import scan

STREAMS, INPUTS, UNITS, BROKEN = 6, 3, 4, 4
OTHERS = [stream for stream in range(STREAMS) if stream != BROKEN]
STARTS = [(1, 0, False), (1, 0, True), (3, 0, False), (3, 1, False), (8, 0, False), (8, 5, False), (8, 7, False)]
"""Length of the unroll, step at which the broken stream begins anew, whether the sensitivity is advanced in place."""


class Result(NamedTuple):
    outputs: torch.Tensor
    state: CoreState
    gradients: list[torch.Tensor]
    of_inputs: torch.Tensor


def copy_of(state: CoreState) -> CoreState:
    sensitivity = state.sensitivity
    return CoreState(
        state.cell.clone(), None if sensitivity is None else Sensitivity(*(part.clone() for part in sensitivity))
    )


def carried_state(core: DiagonalCore) -> CoreState:
    """What an unroll before this one has left."""
    _, state = core(torch.randn(4, STREAMS, INPUTS), core.initial_state(STREAMS), torch.zeros(4, STREAMS).bool())
    return copy_of(state)


def unroll(core: DiagonalCore, inputs, state: CoreState, is_first, weights, in_place: bool = False) -> Result:
    core.zero_grad()
    inputs = inputs.clone().requires_grad_()
    outputs, after = core.forward_into(inputs, state, is_first, state.sensitivity if in_place else None)
    outputs.backward(weights)
    assert inputs.grad is not None
    return Result(
        outputs.detach(),
        after,
        [parameter.grad.clone() for parameter in core.parameters() if parameter.grad is not None],
        inputs.grad,
    )


def assert_equal_states(ours: CoreState, theirs: CoreState) -> None:
    assert ours.finite_streams().all()
    assert torch.equal(ours.cell, theirs.cell)
    if ours.sensitivity is not None:
        assert theirs.sensitivity is not None
        for part, expected in zip(ours.sensitivity, theirs.sensitivity, strict=True):
            assert torch.equal(part, expected)


@pytest.mark.parametrize("poison", [math.nan, pytest.param(math.inf, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("length", "start", "in_place"), STARTS)
@pytest.mark.parametrize("cell", EVERY_CELL)
@pytest.mark.parametrize(("rule", "block_bytes"), [*((rule, 8 << 20) for rule in DIAGONAL_RULES), ("segment", 400)])
def test_a_stream_that_begins_anew_forgets_what_was_not_finite_and_the_others_do_not_notice(
    rule, block_bytes, cell, length, start, in_place, poison, monkeypatch
):
    monkeypatch.setattr(scan, "BLOCK_BYTES", block_bytes)
    core = DiagonalCore(INPUTS, UNITS, cell, rule)
    state, inputs, weights = (
        carried_state(core),
        torch.randn(length, STREAMS, INPUTS),
        torch.randn(length, STREAMS, core.output_size),
    )
    is_first = torch.zeros(length, STREAMS, dtype=torch.bool)
    is_first[start, BROKEN] = True
    is_first[length // 2, [0, 3]] = True
    broken, poisoned = copy_of(state), inputs.clone()
    broken.cell[BROKEN] = poison
    poisoned[:start, BROKEN] = poison
    for part in broken.sensitivity or ():
        part[BROKEN] = poison
    clean = unroll(core, inputs, state, is_first, weights, in_place)
    result = unroll(core, poisoned, broken, is_first, weights, in_place)

    assert_equal_states(result.state, clean.state)
    for ours, expected in ((result.outputs, clean.outputs), (result.of_inputs, clean.of_inputs)):
        assert torch.equal(ours[:, OTHERS], expected[:, OTHERS])
        assert torch.equal(ours[start:, BROKEN], expected[start:, BROKEN])
        assert ours[start:].isfinite().all()
    if start == 0:
        for ours, expected in zip(result.gradients, clean.gradients, strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("cell", EVERY_CELL)
@pytest.mark.parametrize("rule", DIAGONAL_RULES)
def test_an_episode_that_begins_and_ends_inside_the_unroll_leaves_nothing_behind(rule, cell):
    core = DiagonalCore(INPUTS, UNITS, cell, rule)
    state, inputs, weights = (
        carried_state(core),
        torch.randn(9, STREAMS, INPUTS),
        torch.randn(9, STREAMS, core.output_size),
    )
    is_first = torch.zeros(9, STREAMS, dtype=torch.bool)
    is_first[[2, 6], BROKEN] = True
    poisoned = inputs.clone()
    poisoned[4, BROKEN] = math.nan
    clean = unroll(core, inputs, copy_of(state), is_first, weights)
    result = unroll(core, poisoned, copy_of(state), is_first, weights)
    assert_equal_states(result.state, clean.state)
    healthy = [0, 1, 6, 7, 8]  # the episodes before and after
    assert torch.equal(result.of_inputs[healthy, BROKEN], clean.of_inputs[healthy, BROKEN])


@pytest.mark.parametrize("in_one_pass", [False, True])
@pytest.mark.parametrize("cell", ["elstm", "rtu"])
def test_what_an_episode_that_is_over_saw_is_left_out_however_the_inputs_lie_in_memory(cell, in_one_pass):
    core = DiagonalCore(INPUTS, UNITS, cell)
    if in_one_pass:
        core.advance_in_backward()
    inputs, weights = torch.randn(STREAMS, INPUTS, 6).permute(2, 0, 1), torch.randn(6, STREAMS, core.output_size)
    inputs[1, BROKEN] = math.nan
    is_first = torch.zeros(6, STREAMS, dtype=torch.bool)
    is_first[3, BROKEN] = True
    outputs, after = core(inputs, carried_state(core), is_first)
    (weights * outputs)[3:].sum().backward()
    core.settle(after)
    assert after.finite_streams().all()


@pytest.mark.parametrize("cell", EVERY_CELL)
@pytest.mark.parametrize("rule", DIAGONAL_RULES)
def test_a_loss_that_is_not_finite_reaches_no_episode_before_its_own(rule, cell):
    core = DiagonalCore(INPUTS, UNITS, cell, rule)
    state, inputs, weights = (
        carried_state(core),
        torch.randn(5, STREAMS, INPUTS),
        torch.randn(5, STREAMS, core.output_size),
    )
    is_first = torch.zeros(5, STREAMS, dtype=torch.bool)
    is_first[3, BROKEN] = True
    clean = unroll(core, inputs, copy_of(state), is_first, weights)
    weights[4, BROKEN] = math.nan
    result = unroll(core, inputs, copy_of(state), is_first, weights)
    assert torch.equal(result.of_inputs[:3], clean.of_inputs[:3])
    assert torch.equal(result.of_inputs[:, OTHERS], clean.of_inputs[:, OTHERS])


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("cell", EVERY_CELL)
def test_acting_forgets_at_a_reset_as_learning_does(cell, poison):
    core = DiagonalCore(INPUTS, UNITS, cell)
    layer, inputs = GatedCore(core), torch.randn(STREAMS, INPUTS)
    state = carried_state(core).cell
    is_first = torch.arange(STREAMS) == BROKEN
    expected = layer.step(inputs, state, is_first)
    state[BROKEN] = poison
    for ours, clean in zip(layer.step(inputs, state, is_first), expected, strict=True):
        assert torch.equal(ours, clean)


@pytest.mark.parametrize("continuous", [False, True])
def test_the_core_input_of_a_first_step_has_nothing_of_the_episode_before(continuous: bool):
    policy = DiagonalGaussian(2) if continuous else Categorical(2)
    network = PolicyNetwork(NetworkSpec((3,), "vector", policy, encoder="none", num_units=4, last_action=True))
    actions = torch.full((2, 2), math.nan) if continuous else torch.ones(2, dtype=torch.int64)
    inputs = network.core_inputs(torch.zeros(2, 3), torch.full((2,), math.nan), actions, torch.tensor([True, False]))
    assert not inputs[0].any()
    assert inputs[1, 3].isnan()


def test_an_instruction_without_words_is_zero_whatever_the_weights_are():
    encoder = InstructionEncoder()
    with torch.no_grad():
        next(encoder.lstm.parameters()).fill_(math.nan)
    assert not encoder(torch.zeros(2, 5, dtype=torch.int64)).any()


@pytest.mark.parametrize("rule", ["segment", "reference"])
def test_a_chaotic_cell_whose_sensitivity_has_overflowed_is_exact_again_after_a_reset(rule: str):
    core = DiagonalCore(1, 1, "elstm", rule)
    with torch.no_grad():  # nearby states part: the sensitivity grows without bound
        core.vectors.copy_(torch.tensor([[2.24], [-3.51], [-1.58], [0.30]]) * 1.2)
    inputs, state, no = 0.01 * torch.randn(20, 2, 1), core.initial_state(2), torch.zeros(20, 2, dtype=torch.bool)
    norms = []
    while state.finite_streams().any():
        assert len(norms) < 50, "it was meant to overflow"
        _, state = core(inputs, state, no)
        assert state.sensitivity is not None
        norms.append(float(state.sensitivity.stream_norms().max()))
    assert any(1e12 < norm < math.inf for norm in norms)  # it is seen to grow before it is infinite

    inputs, weights = torch.randn(8, 2, 1), torch.randn(8, 2, 1)
    is_first = torch.zeros(8, 2, dtype=torch.bool)
    is_first[0] = True
    core.zero_grad()
    for rows in (slice(0, 3), slice(3, 8)):
        outputs, state = core(inputs[rows], state, is_first[rows])
        (weights[rows] * outputs.sin()).sum().backward()
    assert state.finite_streams().all()
    matrices, vectors, _ = full_gradient(core.cell, core.matrices, core.vectors, inputs, is_first, weights)
    for ours, exact in ((core.matrices.grad, matrices), (core.vectors.grad, vectors)):
        assert ours is not None
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)
