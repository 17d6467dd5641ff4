"""Padded batches: every stream has the outputs, state and gradients of itself alone, whatever lies in the padding."""

from typing import Any

import pytest
import torch
from plain_layer import assert_close, gradients
from torch.nn.utils import rnn
from toy_parts import DenseCell, FullRTRL

from rtrl_core import RTRL, CoreState, carried

T, B, D, H = 7, 5, 3, 4
LENGTHS = [7, 3, 1, 3, 5]
KINDS: dict[str, dict[str, Any]] = {
    "elstm": {},
    "two layers": {"num_layers": 2},
    "all of two layers": {"num_layers": 2, "outputs": "all"},
    "reference": {"rule": "reference"},
    "tbptt": {"rule": "tbptt"},
    "dense": {"cell": DenseCell, "rule": FullRTRL()},
}


def streams_alone(layer: RTRL, inputs, is_first, lengths, state: CoreState):
    """Outputs as rows of each stream, states, the gradient of all of them together, and that of the inputs."""
    outputs, states, inputs = [], [], inputs.clone().requires_grad_()
    for stream, length in enumerate(lengths):
        one = torch.tensor([stream])
        given, after = layer(inputs[:length, one], state.select(one), is_first[:length, one])
        given.sin().sum().backward()
        outputs.append(given.detach()[:, 0])
        states.append(after)
    return outputs, states, gradients(layer), inputs.grad


@pytest.mark.parametrize("kind", KINDS)
def test_each_stream_is_as_it_is_alone(kind: str):
    layer = RTRL(D, H, dtype=torch.float64, **KINDS[kind])
    inputs = torch.randn(2, T, B, D, dtype=torch.float64)
    is_first = torch.rand(2, T, B) < 0.2
    _, state = layer(inputs[0], None, is_first[0])
    outputs, states, wanted, to_inputs = streams_alone(layer, inputs[1], is_first[1], LENGTHS, state)
    padded = inputs[1].clone()
    for stream, length in enumerate(LENGTHS):
        padded[length:, stream] = float("nan")
        is_first[1, length:, stream] = True
    padded.requires_grad_()
    given, after = layer(padded, state, is_first[1], torch.tensor(LENGTHS))
    given.sin().sum().backward()
    assert_close(gradients(layer), wanted, rtol=1e-12)
    torch.testing.assert_close(padded.grad, to_inputs, rtol=1e-12, atol=1e-14)
    for stream, length in enumerate(LENGTHS):
        torch.testing.assert_close(given[:length, stream], outputs[stream], rtol=1e-12, atol=1e-14)
        assert not given[length:, stream].any()
        for ours, theirs in zip(carried.leaves(after), carried.leaves(states[stream]), strict=True):
            torch.testing.assert_close(ours[stream], theirs[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("lengths", [[T] * B, [4] * B], ids=["full", "all shorter"])
def test_equal_lengths_are_the_unroll_itself(lengths: list[int]):
    layer = RTRL(D, H, dtype=torch.float64)
    inputs = torch.randn(T, B, D, dtype=torch.float64)
    given, state = layer(inputs, lengths=lengths)
    expected, after = layer(inputs[: lengths[0]])
    assert torch.equal(given[: lengths[0]], expected)
    assert not given[lengths[0] :].any()
    for ours, theirs in zip(carried.leaves(state), carried.leaves(after), strict=True):
        assert torch.equal(ours, theirs)


def test_batch_first_has_its_lengths_too():
    layer = RTRL(D, H, dtype=torch.float64)
    inputs = torch.randn(T, B, D, dtype=torch.float64)
    expected, _ = layer(inputs, lengths=LENGTHS)
    layer.batch_first = True
    given, _ = layer(inputs.transpose(0, 1), lengths=LENGTHS)
    assert torch.equal(given.transpose(0, 1), expected)


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_a_packed_sequence_comes_back_packed_row_by_row(enforce_sorted: bool):
    layer = RTRL(D, H, dtype=torch.float64)
    lengths = sorted(LENGTHS, reverse=True) if enforce_sorted else LENGTHS
    inputs = torch.randn(T, B, D, dtype=torch.float64)
    packed = rnn.pack_padded_sequence(inputs, torch.tensor(lengths), enforce_sorted=enforce_sorted)
    given, state = layer(packed)
    for layer.batch_first in (False, True):
        again, _ = layer(packed)
        assert torch.equal(again.data, given.data)
    layer.batch_first = False
    expected, after = layer(inputs, lengths=lengths)
    beside = rnn.PackedSequence(given.data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    for one in (given, beside):
        assert torch.equal(rnn.pad_packed_sequence(one)[0], expected)
    for ours, theirs in zip(carried.leaves(state), carried.leaves(after), strict=True):
        assert torch.equal(ours, theirs)
