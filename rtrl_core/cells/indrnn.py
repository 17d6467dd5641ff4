"""Independently recurrent cell (Li et al., CVPR 2018): the simplest diagonal recurrence with a non-linearity.

It states no derivatives: the forward-mode default supplies them, so it is also the example of a cell in one equation.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rtrl_core.cells.base import DiagonalCell
from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class IndRNNCell(DiagonalCell):
    """``c_t = tanh(W x_t + w * c_{t-1} + b)``."""

    gate_names: ClassVar[tuple[str, ...]] = ("input",)
    vector_names: ClassVar[tuple[str, ...]] = ("recurrent", "bias")

    init_std: float = 0.1

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        return torch.tanh(gates[..., 0, :] + vectors[..., 0, :] * state + vectors[..., 1, :])

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Input weights N(0, init_std^2), bias 0, recurrent weights U(0.5, 1): memory at the start, no explosion."""
        with torch.no_grad():
            matrices.normal_(std=self.init_std)
            vectors[0].uniform_(0.5, 1.0)
            vectors[1].zero_()
