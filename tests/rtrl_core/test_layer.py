"""The layer is called as nn.LSTM is, and its gradient is that of whole episodes."""

import copy
import io
import pickle

import pytest
import torch
from plain_layer import assert_close, gradients, plain_outputs
from torch import nn

from rtrl_core import ELSTM, RTRL, DiagonalCore, GatedCore, carried
from rtrl_core.cores import core_names

T, B, D, H = 12, 3, 4, 5


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(T, B, D, dtype=torch.float64)
    is_first = torch.rand(T, B) < 0.2
    return inputs, is_first


def by_unrolls(layer, inputs, is_first, length: int):
    """Outputs and the last state; gradients of ``sum sin(outputs)`` are added up unroll by unroll."""
    state, outputs = None, []
    for start in range(0, T, length):
        rows = slice(start, start + length)
        given, state = layer(inputs[rows], state, is_first[rows])
        given.sin().sum().backward()
        outputs.append(given.detach())
    return torch.cat(outputs), state


@pytest.mark.parametrize("length", [12, 4, 1])
@pytest.mark.parametrize("cell", ["elstm", "indrnn", "mingru"])
def test_the_gradient_is_that_of_whole_episodes_however_the_steps_are_cut(cell: str, length: int):
    layer = RTRL(D, H, cell=cell, dtype=torch.float64)
    inputs, is_first = problem()
    outputs, _ = by_unrolls(layer, inputs, is_first, length)
    ours = gradients(layer)
    expected = plain_outputs(layer, inputs, is_first)
    expected.sin().sum().backward()
    torch.testing.assert_close(outputs, expected.detach(), rtol=1e-12, atol=1e-14)
    assert_close(ours, gradients(layer))


def test_without_state_and_flags_it_is_one_episode_from_its_start():
    layer = RTRL(D, H, dtype=torch.float64)
    inputs, _ = problem()
    outputs, state = layer(inputs)
    never = torch.zeros(T, B, dtype=torch.bool)
    explicit, explicit_state = layer(inputs, layer.initial_state(B), never)
    first = never.clone()
    first[0] = True
    flagged, _ = layer(inputs, state, first)
    assert torch.equal(outputs, explicit)
    assert torch.equal(outputs, flagged)
    for ours, theirs in zip(carried.leaves(state), carried.leaves(explicit_state), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_shapes_are_those_of_an_lstm(num_layers: int):
    for batch_first in (False, True):
        lstm, layer = (
            kind(D, H, num_layers, batch_first=batch_first) for kind in (nn.LSTM, RTRL)
        )  # the same words for both
        for shape in ((B, T, D), (T, D)):
            inputs = torch.randn(*shape)
            assert layer(inputs)[0].shape == lstm(inputs)[0].shape


def test_batch_first_and_a_single_stream_are_the_same_numbers_in_another_order():
    layer = RTRL(D, H, 2, dtype=torch.float64)
    inputs, is_first = problem()
    expected, state = by_unrolls(layer, inputs, is_first, 4)
    wanted = gradients(layer)
    swapped = copy.deepcopy(layer)
    swapped.batch_first = True
    held, outputs = None, []
    for start in range(0, T, 4):
        rows = slice(start, start + 4)
        given, held = swapped(inputs[rows].transpose(0, 1), held, is_first[rows].transpose(0, 1))
        given.sin().sum().backward()
        outputs.append(given.detach())
    assert torch.equal(torch.cat(outputs, 1).transpose(0, 1), expected)
    assert_close(gradients(swapped), wanted, rtol=1e-12)
    for ours, theirs in zip(carried.leaves(held), carried.leaves(state), strict=True):
        assert torch.equal(ours, theirs)
    for batch_first in (False, True):
        layer.batch_first = batch_first
        alone, of_one = by_unrolls(layer, inputs[:, 1], is_first[:, 1], 4)
        torch.testing.assert_close(alone, expected[:, 1], rtol=1e-12, atol=1e-14)
        for ours, theirs in zip(carried.leaves(of_one), carried.leaves(state), strict=True):
            torch.testing.assert_close(ours[0], theirs[1], rtol=1e-12, atol=1e-14)


def test_of_several_layers_the_top_is_exact_and_one_that_is_read_directly_loses_less():
    inputs, _ = problem()
    never, lost = torch.zeros(T, B, dtype=torch.bool), {}
    for outputs in ("top", "all"):
        torch.manual_seed(3)
        layer = RTRL(D, H, 2, outputs=outputs, dtype=torch.float64)
        assert layer.output_size == layer(inputs)[0].shape[-1] == {"top": H, "all": 2 * H}[outputs]
        by_unrolls(layer, inputs, never, 3)
        ours = gradients(layer)
        expected = plain_outputs(layer, inputs, never)
        expected.sin().sum().backward()
        exact = gradients(layer)
        half = len(exact) // 2
        assert_close(ours[half:], exact[half:])
        lower, whole = (torch.cat([part.flatten() for part in parts[:half]]) for parts in (ours, exact))
        lost[outputs] = float((lower - whole).norm() / whole.norm())
    assert 0 < lost["all"] < lost["top"]


def test_one_layer_has_the_numbers_of_the_core_that_it_is():
    layer, core = RTRL(D, H, dtype=torch.float64), ELSTM(D, H).double()
    core.load_state_dict(layer.core.state_dict())
    inputs, is_first = problem()
    ours, _ = layer(inputs, None, is_first)
    theirs, _ = core(inputs, core.initial_state(B), is_first)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", core_names())
def test_every_core_by_name_is_taken(name: str):
    layer = RTRL(D, 8 if name == "retnet" else H, 1 if name == "feedforward" else 2, cell=name, rule="tbptt")
    inputs = torch.randn(T, B, D)
    outputs, state = layer(inputs, lengths=[T, 3, 3])
    outputs, state = layer(inputs, state)
    assert outputs.shape == (T, B, layer.output_size)
    assert state.finite_streams().all()
    assert f"cell={name}, rule=tbptt" in repr(layer)


def test_its_text_says_sizes_cell_rule_and_what_a_stream_costs():
    layer = RTRL(D, H, 2, batch_first=True, outputs="all")
    size = carried.size_bytes(layer.initial_state(7)) // 7
    assert layer.state_bytes_per_stream == size
    assert repr(layer).splitlines()[1].strip() == (
        f"4, 5, num_layers=2, cell=elstm, rule=segment, batch_first=True, outputs=all, state_bytes_per_stream={size}"
    )


def test_under_autocast_it_computes_as_without_and_takes_half_precision_inputs():
    layer, encoder = RTRL(D, H, 2), nn.Linear(D, D)
    inputs = torch.randn(T, B, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(inputs)
        outputs, state = layer(features)
    (outputs * torch.arange(H)).sum().backward()  # outside, as torch asks of every backward
    assert features.dtype == torch.bfloat16
    assert outputs.dtype == torch.float32
    assert {leaf.dtype for leaf in carried.leaves(state)} == {torch.float32}
    ours = gradients(layer)
    expected, _ = layer(features.detach().float())
    (expected * torch.arange(H)).sum().backward()
    assert torch.equal(outputs, expected)
    assert_close(ours, gradients(layer), rtol=1e-12)
    assert encoder.weight.grad is not None


def test_a_copy_goes_on_like_the_layer_also_after_a_backward():
    layer = RTRL(D, H, dtype=torch.float64)
    inputs, is_first = problem()
    _, state = by_unrolls(layer, inputs, is_first, 4)
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    loaded = RTRL(D, H, dtype=torch.float64)
    loaded.load_state_dict(torch.load(stored, weights_only=True))
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded]
    states = [copy.deepcopy(state), pickle.loads(pickle.dumps(state)), state]
    gradients(layer)
    layer(inputs, state, is_first)[0].sin().sum().backward()
    wanted = gradients(layer)
    for other, held in zip(copies, states, strict=True):
        other.zero_grad()
        other(inputs, held, is_first)[0].sin().sum().backward()
        assert_close(gradients(other), wanted, rtol=1e-14)


def test_it_moves_as_modules_do_and_its_state_with_it():
    layer = RTRL(D, H, 2, rule="segment")
    inputs = torch.randn(T, B, D)
    _, state = layer(inputs)
    layer.double()
    outputs, after = layer(inputs.double(), state.to(torch.float64))
    assert outputs.dtype == torch.float64
    assert {leaf.dtype for leaf in carried.leaves(after)} == {torch.float64}
    layer.to("meta")
    assert {leaf.device.type for leaf in carried.leaves(layer.initial_state(2))} == {"meta"}
    assert {leaf.device.type for leaf in carried.leaves(state.to("meta"))} == {"meta"}
    assert RTRL(D, H, device="meta", dtype=torch.float64).core.gate.weight.dtype == torch.float64  # pyright: ignore


def test_a_cell_of_ones_own_options_is_named_by_its_class():
    layer = RTRL(D, H)
    core = layer.core
    assert isinstance(core, GatedCore)
    assert isinstance(core.core, DiagonalCore)
    again = RTRL(D, H, cell=core.core.cell, rule=core.core.rule)
    assert "cell=ELSTMCell, rule=segment" in repr(again)
