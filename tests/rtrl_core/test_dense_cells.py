"""LSTM and GRU compute what torch.nn computes, and what they state of their derivatives is what autograd finds."""

import math

import pytest
import torch
from torch import nn
from torch.func import jacrev
from toy_parts import PlainRNN

from rtrl_core import RECURRENT_CELLS, GRUCell, LSTMCell, NetworkSpec, PolicyNetwork, UnitwiseCell, carried
from rtrl_core.cells.lstm import LSTMOptions
from rtrl_core.cores import build_core
from rtrl_core.policies import Categorical

STEPS, STREAMS, INPUTS, UNITS = 7, 3, 4, 5
LAYERS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
UNITWISE = [*(cell for cell in RECURRENT_CELLS.values() if issubclass(cell, UnitwiseCell)), PlainRNN]


def outputs_of(cell, inputs: torch.Tensor) -> torch.Tensor:
    state, outputs = cell.zeros(inputs.shape[1]), []
    for x in inputs:
        state = cell(x, state)
        outputs.append(cell.output(state))
    return torch.stack(outputs)


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
@pytest.mark.parametrize("name", RECURRENT_CELLS)
def test_outputs_and_gradients_are_those_of_torch_with_the_same_weights(name: str, bias: bool):
    layer = LAYERS[name](INPUTS, UNITS, bias=bias, dtype=torch.float64)
    cell = RECURRENT_CELLS[name](INPUTS, UNITS).double()
    cell.load_torch(layer)  # pyright: ignore[reportCallIssue]
    assert isinstance(cell, UnitwiseCell)
    ours = torch.randn(STEPS, STREAMS, INPUTS, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    given, expected = outputs_of(cell, ours), layer(theirs)[0]
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-12)
    for outputs in (given, expected):
        outputs.sin().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    # Of the layer, gate by gate, beside ours: which columns of ours are which of its weights is written out here.
    gradients = {key: parameter.grad.unflatten(0, (-1, UNITS)) for key, parameter in layer.named_parameters()}  # pyright: ignore
    of_inputs, of_hidden = gradients["weight_ih_l0"], gradients["weight_hh_l0"]
    matrices = [matrix.grad for matrix in cell.matrices]
    if name == "lstm":
        pairs = [(matrices[0][..., :INPUTS], of_inputs), (matrices[0][..., INPUTS:-1], of_hidden)]
        biases = [
            (matrices[0][..., -1], gradients.get("bias_ih_l0")),
            (matrices[0][..., -1], gradients.get("bias_hh_l0")),
        ]
    else:
        pairs = [
            (matrices[0][..., :INPUTS], of_inputs[:2]),
            (matrices[0][..., INPUTS:-1], of_hidden[:2]),
            (matrices[1][..., :-1], of_inputs[2:]),
            (matrices[2][..., :-1], of_hidden[2:]),
        ]
        biases = []
        if bias:
            of_inputs, of_hidden = gradients["bias_ih_l0"], gradients["bias_hh_l0"]
            biases = [(matrices[0][..., -1], of_inputs[:2]), (matrices[1][..., -1], of_inputs[2:])]
            biases.append((matrices[2][..., -1], of_hidden[2:]))
    for found, wanted in [*pairs, *biases * bias]:
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RECURRENT_CELLS)
def test_weights_go_to_torch_and_come_back(name: str):
    cell, other = (RECURRENT_CELLS[name](INPUTS, UNITS) for _ in range(2))
    layer = cell.to_torch()  # pyright: ignore[reportCallIssue]
    inputs = torch.randn(STEPS, STREAMS, INPUTS)
    torch.testing.assert_close(layer(inputs)[0], outputs_of(cell, inputs), rtol=1e-6, atol=1e-6)
    other.load_torch(layer)  # pyright: ignore[reportCallIssue]
    for ours, theirs in zip(cell.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", RECURRENT_CELLS)
@pytest.mark.parametrize("wrong", [{"hidden_size": 6}, {"num_layers": 2}, {"bidirectional": True}])
def test_a_layer_of_another_kind_is_refused(name: str, wrong: dict):
    layer = LAYERS[name](**{"input_size": INPUTS, "hidden_size": UNITS, **wrong})
    with pytest.raises(ValueError, match=r"expected one plain torch.nn layer of 4 inputs and 5 units, got "):
        RECURRENT_CELLS[name](INPUTS, UNITS).load_torch(layer)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", RECURRENT_CELLS)
def test_new_weights_are_spread_as_those_of_torch(name: str):
    units = 64
    ours, theirs = RECURRENT_CELLS[name](8, units).to_torch(), LAYERS[name](8, units)  # pyright: ignore
    for key in ("weight_ih_l0", "weight_hh_l0"):
        found, wanted = getattr(ours, key), getattr(theirs, key)
        assert found.abs().max() <= 1 / math.sqrt(units)
        torch.testing.assert_close(found.std(), wanted.std(), rtol=0.05, atol=0)
    found, wanted = (each.bias_ih_l0 + each.bias_hh_l0 for each in (ours, theirs))  # pyright: ignore
    torch.testing.assert_close(found.std(), wanted.std(), rtol=0.2, atol=0)


@pytest.mark.parametrize(
    ("options", "gate", "added"), [(LSTMOptions(forget_bias=3.0), 1, 3.0), (LSTMOptions(input_bias=-6.0), 0, -6.0)]
)
def test_a_bias_is_added_to_that_of_its_gate_alone(options: LSTMOptions, gate: int, added: float):
    torch.manual_seed(1)
    plain = LSTMCell(INPUTS, UNITS)
    torch.manual_seed(1)
    spec = NetworkSpec(
        (INPUTS - 1,), "vector", Categorical(2), encoder="none", core="lstm", num_units=UNITS, rule="tbptt"
    )
    core = build_core("lstm", INPUTS, UNITS, "tbptt", options)
    difference = next(core.parameters()) - plain.matrices[0]
    torch.testing.assert_close(difference[gate, :, -1], torch.full((UNITS,), added))
    difference[gate, :, -1] = 0
    assert not difference.any()
    assert PolicyNetwork(spec).core.output_size == UNITS


def random_point(cell: UnitwiseCell):
    """A state, rows and gate inputs in the middle of an episode."""
    state = carried.map_leaves(lambda leaf: torch.randn_like(leaf), cell.zeros(STREAMS))
    inputs = torch.randn(STREAMS, INPUTS, dtype=torch.float64)
    rows = tuple(carried.leaves(state))
    return state, inputs, rows, cell.gates(cell.sources(inputs, rows[-1]))


@pytest.mark.parametrize("kind", UNITWISE)
def test_closed_forms_are_what_forward_mode_finds(kind: type[UnitwiseCell]):
    cell = kind(INPUTS, UNITS).double()
    _, _, rows, gates = random_point(cell)
    found, expected = cell.derivatives(rows, gates), UnitwiseCell.derivatives(cell, rows, gates)
    torch.testing.assert_close(found.state, expected.state, rtol=1e-10, atol=1e-12)
    assert len(found.gates) == len(expected.gates) == sum(len(group.names) for group in cell.groups)
    for ours, theirs in zip(found.gates, expected.gates, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", UNITWISE)
def test_the_blocks_are_those_on_the_diagonal_of_the_jacobian_of_a_step(kind: type[UnitwiseCell]):
    cell = kind(INPUTS, UNITS).double()
    state, inputs, rows, gates = random_point(cell)
    local = cell.derivatives(rows, gates)

    def step(*rows: torch.Tensor) -> torch.Tensor:
        return torch.stack(list(carried.leaves(cell(inputs, carried.rebuild(state, rows)))))

    whole = jacrev(step, argnums=tuple(range(cell.num_states)))(*rows)  # of each: [M, B, N, B, N]
    blocks = cell.diagonal_blocks(local)
    for stream in range(STREAMS):
        for unit in range(UNITS):
            for j, by_row in enumerate(whole):
                expected = by_row[:, stream, unit, stream, unit]
                torch.testing.assert_close(blocks[stream, :, j, unit], expected, rtol=1e-9, atol=1e-12)


def test_what_a_unit_keeps_of_itself_with_its_gates_held_fixed_is_its_forget_gate():
    lstm, gru = LSTMCell(INPUTS, UNITS).double(), GRUCell(INPUTS, UNITS).double()
    _, _, rows, gates = random_point(lstm)
    kept, forget = lstm.derivatives(rows, gates).state, torch.sigmoid(gates[1])
    cell, hidden = lstm.update(rows, gates)
    torch.testing.assert_close(kept[:, 0, 0], forget)
    torch.testing.assert_close(kept[:, 1, 0], torch.sigmoid(gates[3]) * (1 - cell.tanh().square()) * forget)
    torch.testing.assert_close(hidden, torch.sigmoid(gates[3]) * cell.tanh())
    assert not kept[:, :, 1].any()
    _, _, rows, gates = random_point(gru)
    torch.testing.assert_close(gru.derivatives(rows, gates).state[:, 0, 0], torch.sigmoid(gates[1]))


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_a_cell_without_inputs_or_units_is_refused(sizes: tuple[int, int]):
    with pytest.raises(ValueError, match="input_size and num_units must be at least 1"):
        LSTMCell(*sizes)
