"""A core that advances its sensitivity in the backward pass: the same numbers, one look at the memory, and no second backward."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from unrolled import EVERY_CELL

from rtrl_core import ELSTM, CoreState, DiagonalCore, StackedCore, carried

STREAMS, INPUTS, UNITS = 5, 4, 6


def problem(steps: int = 24):
    inputs = torch.randn(steps, STREAMS, INPUTS, dtype=torch.float64)
    is_first = torch.rand(steps, STREAMS) < 0.2
    return inputs, is_first, torch.randn(steps, STREAMS, 1, dtype=torch.float64)


def pair(make) -> tuple:
    plain = make().double()
    in_one_pass = copy.deepcopy(plain)
    in_one_pass.advance_in_backward()
    return plain, in_one_pass


def by_unrolls(core, inputs, is_first, weights, length: int):
    """Gradients, outputs and every state on the way, each as it is after the backward pass."""
    core.zero_grad()
    state, seen = core.initial_state(STREAMS), []
    for start in range(0, len(inputs), length):
        rows = slice(start, start + length)
        x = inputs[rows].clone().requires_grad_()
        outputs, state = core(x, state, is_first[rows])
        (weights[rows] * outputs.sin()).sum().backward()
        seen += [outputs.detach(), x.grad, *(leaf.clone() for leaf in carried.leaves(state))]
    return [parameter.grad for parameter in core.parameters()] + seen


def assert_close(ours, theirs, tolerance: float = 1e-12) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("rule", "length"), [("segment", 1), ("segment", 3), ("segment", 24), ("reference", 3), ("tbptt", 1)]
)
@pytest.mark.parametrize("cell", EVERY_CELL)
def test_the_gradient_and_the_state_are_those_of_two_passes(cell: str, rule: str, length: int):
    plain, in_one_pass = pair(lambda: DiagonalCore(INPUTS, UNITS, cell, rule))
    given = problem()
    assert_close(by_unrolls(in_one_pass, *given, length), by_unrolls(plain, *given, length))


def test_a_stack_of_gated_layers_advances_all_of_its_sensitivities():
    plain, in_one_pass = pair(lambda: StackedCore([ELSTM(INPUTS, UNITS), ELSTM(UNITS, 3)]))
    given = problem()
    assert_close(by_unrolls(in_one_pass, *given, 4), by_unrolls(plain, *given, 4))


@pytest.mark.parametrize("length", [1, 4])
def test_the_sensitivity_stays_where_it_is(length: int):
    core = DiagonalCore(INPUTS, UNITS)
    core.advance_in_backward()
    state = core.initial_state(STREAMS)
    places = [leaf.data_ptr() for leaf in carried.leaves(state.sensitivity)]
    for _ in range(3):
        outputs, state = core(torch.randn(length, STREAMS, INPUTS), state, torch.zeros(length, STREAMS).bool())
        outputs.sum().backward()
        assert [leaf.data_ptr() for leaf in carried.leaves(state.sensitivity)] == places


def test_a_state_that_is_thrown_away_is_not_kept_for_what_was_left_to_do():
    core = DiagonalCore(INPUTS, UNITS)
    core.advance_in_backward()
    for backward in (True, False):
        outputs, state = core(
            torch.randn(2, STREAMS, INPUTS), core.initial_state(STREAMS), torch.zeros(2, STREAMS).bool()
        )
        if backward:
            outputs.sum().backward()
        memory = weakref.ref(state.sensitivity.matrices)
        del outputs, state
        gc.collect()
        assert memory() is None


@pytest.mark.parametrize("how", ["settled", "next unroll", "no_grad"])
def test_without_a_backward_pass_the_sensitivity_is_advanced_all_the_same(how: str):
    plain, in_one_pass = pair(lambda: DiagonalCore(INPUTS, UNITS))
    inputs, is_first, _ = problem(6)
    states = []
    for core in (plain, in_one_pass):
        state = core.initial_state(STREAMS)
        with torch.set_grad_enabled(how != "no_grad"):
            for rows in (slice(0, 3), slice(3, 6)):
                _, state = core(inputs[rows], state, is_first[rows])
                if how == "settled":
                    core.settle(state)
        core.settle(state)
        core.settle(state)  # there is nothing left to do
        states.append(state)
    assert_close(carried.leaves(states[1]), carried.leaves(states[0]))


def test_a_second_backward_pass_is_refused_in_a_sentence_that_names_the_other_form():
    core = ELSTM(INPUTS, UNITS)
    core.advance_in_backward()
    outputs, _ = core(torch.randn(3, STREAMS, INPUTS), core.initial_state(STREAMS), torch.zeros(3, STREAMS).bool())
    outputs.sum().backward(retain_graph=True)
    with pytest.raises(
        RuntimeError, match="one backward pass per unroll, before the next; for more, do not call it, and forward keeps"
    ):
        outputs.sum().backward()


def test_a_backward_pass_that_comes_after_the_next_unroll_is_refused():
    core = DiagonalCore(INPUTS, UNITS)
    core.advance_in_backward()
    nobody = torch.zeros(3, STREAMS).bool()
    first, state = core(torch.randn(3, STREAMS, INPUTS), core.initial_state(STREAMS), nobody)
    core(torch.randn(3, STREAMS, INPUTS), state, nobody)
    with pytest.raises(RuntimeError, match="has been advanced in place"):
        first.sum().backward()


def test_inputs_that_were_overwritten_are_not_taken_for_those_of_the_unroll():
    core = DiagonalCore(INPUTS, UNITS)
    core.advance_in_backward()
    inputs = torch.randn(3, STREAMS, INPUTS)
    _, state = core(inputs, core.initial_state(STREAMS), torch.zeros(3, STREAMS).bool())
    inputs.zero_()
    with pytest.raises(RuntimeError, match="changed in place before its sensitivity was advanced"):
        core.settle(state)


@pytest.mark.parametrize("length", [1, 3])
def test_where_the_gradient_is_of_no_use_the_streams_can_still_be_looked_at_one_by_one(length: int):
    core = DiagonalCore(INPUTS, UNITS).double()
    core.advance_in_backward()
    inputs, is_first, weights = problem(2 * length)
    _, state = core(inputs[:length], core.initial_state(STREAMS), is_first[:length])
    core.settle(state)
    before = CoreState(state.cell.clone(), carried.map_leaves(torch.clone, state.sensitivity))
    rows = slice(length, 2 * length)
    outputs, after = core(inputs[rows], state, is_first[rows])
    weights = weights[rows].expand_as(outputs).clone()
    weights[-1, 2] = float("nan")
    outputs.backward(weights)
    assert_close(carried.leaves(state.sensitivity), carried.leaves(before.sensitivity), 0)
    alone = torch.tensor([False, True, False, False, False])
    outputs, _ = core(inputs[rows, alone], state.of(alone), is_first[rows, alone])
    core.zero_grad()
    outputs.backward(weights[:, alone])
    assert core.matrices.grad is not None
    assert core.matrices.grad.isfinite().all()
    core.settle(after)
    _, expected = _without(core)(inputs[rows], before, is_first[rows])
    assert_close(carried.leaves(after), carried.leaves(expected))


def _without(core: DiagonalCore) -> DiagonalCore:
    plain = DiagonalCore(INPUTS, UNITS).double()
    plain.load_state_dict(core.state_dict())
    return plain


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda core: pickle.loads(pickle.dumps(core))])
def test_a_core_can_be_copied_in_the_middle_of_an_unroll(copied):
    core = ELSTM(INPUTS, UNITS).double()
    core.advance_in_backward()
    inputs, is_first, weights = problem(3)
    outputs, state = core(inputs, core.initial_state(STREAMS), is_first)
    other = copied(core)
    outputs.sum().backward()
    assert state.finite_streams().all()
    assert_close(by_unrolls(other, inputs, is_first, weights, 3), by_unrolls(core, inputs, is_first, weights, 3))
