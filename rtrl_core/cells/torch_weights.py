"""Weights to and from ``torch.nn.LSTM`` and ``torch.nn.GRU``, whose gates are stacked and whose biases are two."""

from collections.abc import Sequence

import torch
from torch import nn

from rtrl_core.cells.unitwise import UnitwiseCell
from rtrl_core.shapes import Tensor


def load(cell: UnitwiseCell, layer: nn.RNNBase, gates: Sequence[Sequence[int]]) -> None:
    """Copies the weights of a layer into a cell.

    Args:
        gates: for each group of the cell, which of the layer's gates its own are.

    Raises:
        ValueError: if the layer is of another size, or not one plain layer.
    """
    _require_fit(cell, layer)
    num_gates = layer.weight_ih_l0.shape[0] // cell.num_units
    by_inputs, by_hidden = (_by_gate(weight, num_gates) for weight in (layer.weight_ih_l0, layer.weight_hh_l0))
    zeros = by_inputs.new_zeros(num_gates, cell.num_units, 1)
    input_bias, hidden_bias = zeros, zeros
    if layer.bias:
        input_bias, hidden_bias = (_by_gate(bias, num_gates) for bias in (layer.bias_ih_l0, layer.bias_hh_l0))
    with torch.no_grad():
        for group, matrix, of_layer in zip(cell.groups, cell.matrices, gates, strict=True):
            chosen = list(of_layer)
            bias = input_bias[chosen] * group.sees_inputs + hidden_bias[chosen] * group.sees_hidden
            parts = [*[by_inputs[chosen]] * group.sees_inputs, *[by_hidden[chosen]] * group.sees_hidden, bias]
            matrix.copy_(torch.cat(parts, dim=-1))


def save(cell: UnitwiseCell, layer: nn.RNNBase, gates: Sequence[Sequence[int]]) -> None:
    """The inverse of ``load``, into a layer of the cell's size; where its two biases are one here, the second is zero."""
    _require_fit(cell, layer)
    num_gates = layer.weight_ih_l0.shape[0] // cell.num_units
    inputs_end = cell.input_size
    with torch.no_grad():
        for name in ("bias_ih_l0", "bias_hh_l0"):
            getattr(layer, name).zero_()
        for group, matrix, of_layer in zip(cell.groups, cell.matrices, gates, strict=True):
            chosen = list(of_layer)
            first = inputs_end * group.sees_inputs
            bias = layer.bias_ih_l0 if group.sees_inputs else layer.bias_hh_l0
            _by_gate(bias, num_gates)[chosen] = matrix[..., -1:]
            if group.sees_inputs:
                _by_gate(layer.weight_ih_l0, num_gates)[chosen] = matrix[..., :inputs_end]
            if group.sees_hidden:
                _by_gate(layer.weight_hh_l0, num_gates)[chosen] = matrix[..., first : first + cell.num_units]


def _by_gate(stacked: Tensor, num_gates: int) -> Tensor:
    """A view, ``[gates, N, E]``."""
    return stacked.detach().view(num_gates, stacked.shape[0] // num_gates, -1)


def _require_fit(cell: UnitwiseCell, layer: nn.RNNBase) -> None:
    plain = layer.num_layers == 1 and not layer.bidirectional and layer.proj_size == 0
    if not plain or (layer.input_size, layer.hidden_size) != (cell.input_size, cell.num_units):
        raise ValueError(
            f"expected one plain torch.nn layer of {cell.input_size} inputs and {cell.num_units} units, got {layer}"
        )
