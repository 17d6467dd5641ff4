"""Whatever is wrong with a call of the layer is said in one sentence, also where no one checks annotations: in production."""

import re
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

from rtrl_core import RTRL, CoreState

T, B, D, H = 5, 4, 3, 6
INPUTS, FLAGS = torch.zeros(T, B, D), torch.zeros(T, B, dtype=torch.bool)


@pytest.fixture(autouse=True)
def _as_in_production():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def refused(error: type[Exception], message: str):
    return pytest.raises(error, match=f"^{re.escape(message)}[^\n]*$")


CALLS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "inputs of another size": (
        {"inputs": torch.zeros(T, B, 2)},
        ValueError,
        "inputs must be of shape [T B D] = [any, any, 3], got [5, 4, 2]",
    ),
    "inputs of four axes": ({"inputs": INPUTS[None]}, ValueError, "inputs must be of shape [T B D]"),
    "no step": ({"inputs": INPUTS[:0]}, ValueError, "inputs must be of shape [T B D] = [any, any, 3], got [0, 4, 3]"),
    "integers": ({"inputs": INPUTS.long()}, TypeError, "inputs must be floating point [T B D], got int64"),
    "numpy": ({"inputs": INPUTS.numpy()}, TypeError, "inputs must be a tensor [T B D], got ndarray"),
    "inputs elsewhere": ({"inputs": INPUTS.to("meta")}, ValueError, "inputs must be on cpu, got a tensor on meta"),
    "flags of another batch": (
        {"is_first": FLAGS[:, :1]},
        ValueError,
        "is_first must be of shape [T B] = [5, 4], got [5, 1]",
    ),
    "flags of numbers": ({"is_first": FLAGS.float()}, TypeError, "is_first must be bool [T B], got float32 [5, 4]"),
    "flags of a stream": (
        {"inputs": INPUTS[:, 0], "is_first": FLAGS},
        ValueError,
        "is_first must be of shape [T] = [5], got [5, 4]",
    ),
    "the pair of nn.LSTM": (
        {"state": (torch.zeros(1, B, H), torch.zeros(1, B, H))},
        TypeError,
        "state must be None, initial_state(batch_size) or what an earlier call returned, not the pair of nn.LSTM, got tuple",
    ),
    "a state of another batch": (
        {"state": RTRL(D, H).initial_state(T)},
        ValueError,
        "state is of 5 streams, but inputs are of 4, with batch_first=False",
    ),
    "a state of one stream": (
        {"state": RTRL(D, H).initial_state(1)},
        ValueError,
        "state is of 1 streams, but inputs are of 4",
    ),
    "a batch of steps taken for a stream": (
        {"inputs": INPUTS[0], "state": RTRL(D, H).initial_state(B)},
        ValueError,
        "state is of 4 streams, but inputs are of 1",
    ),
    "a state of more units": (
        {"state": RTRL(D, 7).initial_state(B)},
        ValueError,
        "state must be one of this layer, [[6], [2, 6, 3], [4, 6]] per stream, got [[7], [2, 7, 3], [4, 7]]",
    ),
    "a state of another rule": (
        {"state": RTRL(D, H, rule="tbptt").initial_state(B)},
        ValueError,
        "state must be one of this layer, [[6], [2, 6, 3], [4, 6]] per stream, got [[6]]: take it from this layer's",
    ),
    "a state of two layers": ({"state": RTRL(D, H, 2).initial_state(B)}, ValueError, "state must be one of this layer"),
    "a state of another type": (
        {"state": RTRL(D, H).initial_state(B).to(torch.float64)},
        TypeError,
        "state must be torch.float32 as the layer is, got torch.float64: move it by state.to(torch.float32)",
    ),
    "a state elsewhere": (
        {"state": RTRL(D, H).initial_state(B).to("meta")},
        ValueError,
        "state must be on cpu, got meta: move it by state.to(device)",
    ),
    "a learnable state": (
        {"state": CoreState(torch.zeros(B, H, requires_grad=True), RTRL(D, H).initial_state(B).sensitivity)},
        ValueError,
        "state.cell must not require a gradient",
    ),
    "lengths of floats": (
        {"lengths": torch.ones(B)},
        TypeError,
        "lengths must be int64 [B], got float32 [4]",
    ),
    "lengths of booleans": (
        {"lengths": [True] * B},
        TypeError,
        "lengths must be int64 [B], or a list of whole numbers",
    ),
    "lengths of numpy": ({"lengths": np.ones(B)}, TypeError, "lengths must be int64 [B], or a list of whole numbers"),
    "too few lengths": ({"lengths": [1, 2]}, ValueError, "lengths must be one per stream, 4, got 2"),
    "a tensor of too few": (
        {"lengths": torch.ones(2).long()},
        ValueError,
        "lengths must be of shape [B] = [4], got [2]",
    ),
    "too long": (
        {"lengths": [5, 6, 1, 1]},
        ValueError,
        "lengths must be from 1 to the number of steps, 5, got 6 for stream 1",
    ),
    "without a step": (
        {"lengths": torch.tensor([5, 5, 0, 5])},
        ValueError,
        "lengths must be from 1 to the number of steps, 5, got 0 for stream 2",
    ),
    "packed and lengths": (
        {"inputs": rnn.pack_padded_sequence(INPUTS, torch.full((B,), T)), "lengths": [T] * B},
        ValueError,
        "a PackedSequence comes without is_first and lengths",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), CALLS.values(), ids=CALLS.keys())
def test_a_wrong_call_is_refused_in_one_sentence(changes, error, message):
    layer = RTRL(D, H)
    layer(INPUTS, layer.initial_state(B), FLAGS, [T] * B)
    with refused(error, message):
        layer(**{"inputs": INPUTS, **changes})


def test_batch_first_says_its_own_axes():
    layer = RTRL(D, H, batch_first=True)
    inputs = torch.zeros(B, T, D)
    with refused(ValueError, "inputs must be of shape [B T D] = [any, any, 3], got [4, 5, 2]"):
        layer(inputs[..., :2])
    with refused(ValueError, "is_first must be of shape [B T] = [4, 5], got [5, 4]"):
        layer(inputs, None, FLAGS)
    with refused(ValueError, "state is of 4 streams, but inputs are of 5, with batch_first=True"):
        layer(INPUTS, layer.initial_state(B))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"num_layers": 0}, ValueError, "input_size, hidden_size and num_layers must be at least 1, got 3, 6 and 0"),
        ({"hidden_size": -1}, ValueError, "input_size, hidden_size and num_layers must be at least 1, got 3, -1 and 1"),
        ({"cell": "gro"}, ValueError, "unknown core 'gro': expected one of elstm, indrnn, mingru"),
        ({"rule": "rtrl"}, ValueError, "unknown rule 'rtrl': expected one of segment, reference, tbptt"),
        ({"outputs": "last"}, ValueError, "unknown outputs 'last': expected one of top, all"),
        ({"dtype": torch.bfloat16}, TypeError, "a recurrent core computes in float32 or float64"),
    ],
)
def test_a_layer_that_cannot_be_is_refused_in_one_sentence(words, error, message):
    with refused(error, message):
        RTRL(**{"input_size": D, "hidden_size": H, **words})


@pytest.mark.parametrize("cell", ["elstm", "indrnn"])
def test_a_layer_in_half_precision_is_refused(cell: str):
    layer = RTRL(D, H, cell=cell).bfloat16()
    with refused(TypeError, "a recurrent core computes in float32 or float64"):
        layer(INPUTS.bfloat16())


def test_what_an_lstm_has_and_this_has_not_is_refused_by_its_name():
    words: list[dict[str, Any]] = [{"bidirectional": True}, {"dropout": 0.1}, {"proj_size": 2}]
    for word in words:
        nn.LSTM(D, H, 2, **word)
        with pytest.raises(TypeError, match=next(iter(word))):
            RTRL(D, H, 2, **word)


def test_selecting_streams_by_bytes_is_refused():
    with refused(TypeError, "streams must be bool [B] or int64 [S], got uint8"):
        RTRL(D, H).initial_state(B).select(torch.ones(B, dtype=torch.uint8))
