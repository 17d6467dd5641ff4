"""The minimal LSTM of Feng et al. (2024): gates that see only the input, and share what they keep and what they take."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class MinLSTMCell(DiagonalCell):
    """``c_t = F c_{t-1} + (1 - F) z`` with ``F = f / (f + i)``, ``f, i = sigmoid(W x_t + b)``, ``z = W x_t + b``."""

    gate_names: ClassVar[tuple[str, ...]] = ("forget", "input", "candidate")
    vector_names: ClassVar[tuple[str, ...]] = ("forget_bias", "input_bias", "candidate_bias")

    init_std: float = 0.1
    forget_bias: float = 0.0

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        forget, take, candidate = (gates + vectors).unbind(-2)
        return torch.lerp(candidate, state, self._share(forget, take))

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        forget, take, candidate = (gates + vectors).unbind(-2)
        keep = self._share(forget, take)
        to_candidate = 1 - keep
        to_share = (state - candidate) * keep * to_candidate
        by_gate = (to_share * torch.sigmoid(-forget), -to_share * torch.sigmoid(-take), to_candidate)
        return LocalDerivatives(keep, by_gate, by_gate)

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Matrices N(0, init_std^2); the biases of ``f`` and ``i`` are ``forget_bias`` and its negative: ``F = sigmoid(forget_bias)``."""
        with torch.no_grad():
            matrices.normal_(std=self.init_std)
            vectors.zero_()
            vectors[0] += self.forget_bias
            vectors[1] -= self.forget_bias

    @staticmethod
    def _share(forget: Tensor, take: Tensor) -> Tensor:
        """``f / (f + i)``, also where both are too small to be divided."""
        return torch.sigmoid(functional.logsigmoid(forget) - functional.logsigmoid(take))
