"""Gated linear recurrence (minGRU, Feng et al. 2024): the gates see only the input, so the recurrence is linear in the state."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class MinGRUCell(DiagonalCell):
    """``k_t = sigmoid(F x_t + b^f)``, ``c_t = k_t * c_{t-1} + (1 - k_t) * (Z x_t + b^z)``."""

    gate_names: ClassVar[tuple[str, ...]] = ("keep", "candidate")
    vector_names: ClassVar[tuple[str, ...]] = ("keep_bias", "candidate_bias")

    init_std: float = 0.1
    keep_bias: float = 1.0

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        keep = torch.sigmoid(gates[..., 0, :] + vectors[..., 0, :])
        return torch.lerp(gates[..., 1, :] + vectors[..., 1, :], state, keep)

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        keep = torch.sigmoid(gates[..., 0, :] + vectors[0])
        to_candidate = 1 - keep
        to_keep = (state - gates[..., 1, :] - vectors[1]) * keep * to_candidate
        return LocalDerivatives(keep, (to_keep, to_candidate), (to_keep, to_candidate))

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Matrices N(0, init_std^2); ``b^f = keep_bias`` so that a new network remembers a few steps."""
        with torch.no_grad():
            matrices.normal_(std=self.init_std)
            vectors.zero_()
            vectors[0] += self.keep_bias
