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
    weights = _by_gate(cell, layer)
    by_inputs, by_hidden = weights["weight_ih_l0"], weights["weight_hh_l0"]
    zeros = torch.zeros_like(by_inputs[..., :1])  # of a layer without biases
    input_bias, hidden_bias = weights.get("bias_ih_l0", zeros), weights.get("bias_hh_l0", zeros)
    with torch.no_grad():
        for group, matrix, of_layer in zip(cell.groups, cell.matrices, gates, strict=True):
            chosen = list(of_layer)
            bias = input_bias[chosen] * group.sees_inputs + hidden_bias[chosen] * group.sees_hidden
            parts = [*[by_inputs[chosen]] * group.sees_inputs, *[by_hidden[chosen]] * group.sees_hidden, bias]
            matrix.copy_(torch.cat(parts, dim=-1))


def save(cell: UnitwiseCell, layer: nn.RNNBase, gates: Sequence[Sequence[int]]) -> None:
    """The inverse of ``load``, into a layer of the cell's size; where its two biases are one here, the second is zero."""
    _require_fit(cell, layer)
    weights = _by_gate(cell, layer)
    inputs_end = cell.input_size
    with torch.no_grad():
        weights["bias_hh_l0"].zero_()
        for group, matrix, of_layer in zip(cell.groups, cell.matrices, gates, strict=True):
            chosen = list(of_layer)
            first = inputs_end * group.sees_inputs
            weights["bias_ih_l0" if group.sees_inputs else "bias_hh_l0"][chosen] = matrix[..., -1:]
            if group.sees_inputs:
                weights["weight_ih_l0"][chosen] = matrix[..., :inputs_end]
            if group.sees_hidden:
                weights["weight_hh_l0"][chosen] = matrix[..., first : first + cell.num_units]


def _by_gate(cell: UnitwiseCell, layer: nn.RNNBase) -> dict[str, Tensor]:
    """Views of the layer's weights, ``[gates, N, E]``; of a bias ``E = 1``."""
    return {
        name: stacked.detach().view(stacked.shape[0] // cell.num_units, cell.num_units, -1)
        for name, stacked in layer.named_parameters()
    }


def _require_fit(cell: UnitwiseCell, layer: nn.RNNBase) -> None:
    plain = layer.num_layers == 1 and not layer.bidirectional and layer.proj_size == 0
    if not plain or (layer.input_size, layer.hidden_size) != (cell.input_size, cell.num_units):
        raise ValueError(
            f"expected one plain torch.nn layer of {cell.input_size} inputs and {cell.num_units} units, got {layer}"
        )
