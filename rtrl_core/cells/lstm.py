"""The dense LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000), as ``torch.nn.LSTM`` computes it."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from rtrl_core import carried
from rtrl_core.cells import torch_weights
from rtrl_core.cells.base import LocalDerivatives
from rtrl_core.cells.unitwise import GateGroup, Rows, UnitwiseCell
from rtrl_core.shapes import Float, Tensor

_OF_TORCH = ((0, 1, 2, 3),)


@carried.readable
class LSTMState(NamedTuple):
    cell: Float[Tensor, "B N"]
    hidden: Float[Tensor, "B N"]


@dataclass(frozen=True, slots=True)
class LSTMOptions:
    forget_bias: float = 0.0
    """Added to the forget gate's bias at the start; above 0 the cell begins by remembering."""
    input_bias: float = 0.0
    """Added to the input gate's bias at the start. ``-forget_bias`` lets in as much as is forgotten, so that what a long memory adds up
    does not fill it ("chrono", Tallec & Ollivier, ICLR 2018)."""

    def __post_init__(self) -> None:
        for name, bias in (("forget_bias", self.forget_bias), ("input_bias", self.input_bias)):
            if not -100 <= bias <= 100:
                raise ValueError(f"{name} must be from -100 to 100, got {bias}")


class LSTMCell(UnitwiseCell):
    """Every gate of every unit reads ``[x_t, h_{t-1}, 1]``.

    i, f, o = sigmoid(W [x_t, h_{t-1}, 1])        g = tanh(W_g [x_t, h_{t-1}, 1])
    c_t     = f * c_{t-1} + i * g                 h_t = o * tanh(c_t)
    """

    Options: ClassVar[type] = LSTMOptions
    num_states: ClassVar[int] = 2
    groups: ClassVar[tuple[GateGroup, ...]] = (GateGroup(("input", "forget", "candidate", "output")),)

    def __init__(self, input_size: int, num_units: int, options: Any = None) -> None:
        super().__init__(input_size, num_units, options)
        with torch.no_grad():
            self.matrices[0][0, :, -1] += self.options.input_bias
            self.matrices[0][1, :, -1] += self.options.forget_bias

    def zeros(self, batch_size: int) -> LSTMState:
        return LSTMState(*self.matrices[0].new_zeros(2, batch_size, self.num_units).unbind(0))

    def update(self, rows: Rows, gates: Rows) -> Rows:
        keep, forget, candidate, show = _activations(gates)
        cell = forget * rows[0] + keep * candidate
        return cell, show * torch.tanh(cell)

    def derivatives(self, rows: Rows, gates: Rows) -> LocalDerivatives:
        keep, forget, candidate, show = _activations(gates)
        seen = torch.tanh(forget * rows[0] + keep * candidate)
        to_hidden = show * (1 - seen * seen)
        zero = torch.zeros_like(seen)

        def of(to_cell: Tensor) -> Tensor:
            return torch.stack([to_cell, to_hidden * to_cell], dim=-2)

        return LocalDerivatives(
            torch.stack([of(forget), torch.stack([zero, zero], dim=-2)], dim=-2),
            (
                of(candidate * keep * (1 - keep)),
                of(rows[0] * forget * (1 - forget)),
                of(keep * (1 - candidate * candidate)),
                torch.stack([zero, seen * show * (1 - show)], dim=-2),
            ),
            (),
        )

    def load_torch(self, layer: nn.LSTM) -> None:
        """Takes the weights of a layer of this size; raises ``ValueError`` for another."""
        torch_weights.load(self, layer, _OF_TORCH)

    def to_torch(self) -> nn.LSTM:
        """A layer that computes the same, with its second bias zero."""
        layer = nn.LSTM(self.input_size, self.num_units, device=self.matrices[0].device, dtype=self.matrices[0].dtype)
        torch_weights.save(self, layer, _OF_TORCH)
        return layer


def _activations(gates: Rows) -> Rows:
    keep, forget, candidate, show = gates
    return torch.sigmoid(keep), torch.sigmoid(forget), torch.tanh(candidate), torch.sigmoid(show)
