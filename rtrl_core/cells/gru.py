"""The dense GRU (Cho et al. 2014) whose reset comes after the recurrent product, as ``torch.nn.GRU`` and cuDNN compute it.

With the reset before the product, a parameter of a unit's reset gate would reach the other units at once: no ``UnitwiseCell``.
"""

from typing import ClassVar

import torch
from torch import nn

from rtrl_core.cells import torch_weights
from rtrl_core.cells.base import LocalDerivatives
from rtrl_core.cells.unitwise import GateGroup, Rows, UnitwiseCell
from rtrl_core.shapes import Float, Tensor

_OF_TORCH = ((0, 1), (2,), (2,))


class GRUCell(UnitwiseCell):
    """The candidate has two products, because the reset stands between them: each reads what it needs, so no column is always zero.

    r, z = sigmoid(W [x_t, h_{t-1}, 1])
    n    = tanh(W_x [x_t, 1] + r * W_h [h_{t-1}, 1])
    h_t  = z * h_{t-1} + (1 - z) * n
    """

    num_states: ClassVar[int] = 1
    groups: ClassVar[tuple[GateGroup, ...]] = (
        GateGroup(("reset", "keep")),
        GateGroup(("candidate_of_inputs",), sees_hidden=False),
        GateGroup(("candidate_of_hidden",), sees_inputs=False),
    )

    def zeros(self, batch_size: int) -> Float[Tensor, "B N"]:
        return self.matrices[0].new_zeros(batch_size, self.num_units)

    def update(self, rows: Rows, gates: Rows) -> Rows:
        _, keep, candidate = _activations(gates)
        return (candidate + keep * (rows[0] - candidate),)

    def derivatives(self, rows: Rows, gates: Rows) -> LocalDerivatives:
        reset, keep, candidate = _activations(gates)
        to_candidate = (1 - keep) * (1 - candidate * candidate)
        of_gates = (
            to_candidate * gates[3] * reset * (1 - reset),
            (rows[0] - candidate) * keep * (1 - keep),
            to_candidate,
            to_candidate * reset,
        )
        return LocalDerivatives(keep[..., None, None, :], tuple(gate.unsqueeze(-2) for gate in of_gates), ())

    def load_torch(self, layer: nn.GRU) -> None:
        """Takes the weights of a layer of this size; raises ``ValueError`` for another."""
        torch_weights.load(self, layer, _OF_TORCH)

    def to_torch(self) -> nn.GRU:
        """A layer that computes the same."""
        layer = nn.GRU(self.input_size, self.num_units, device=self.matrices[0].device, dtype=self.matrices[0].dtype)
        torch_weights.save(self, layer, _OF_TORCH)
        return layer


def _activations(gates: Rows) -> Rows:
    reset = torch.sigmoid(gates[0])
    return reset, torch.sigmoid(gates[1]), torch.tanh(gates[2] + reset * gates[3])
