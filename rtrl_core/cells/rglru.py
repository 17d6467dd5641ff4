"""The real-gated linear recurrent unit of Griffin (De et al. 2024), with all of its gates computed from the input of the cell.

In Griffin the gates see the projected input ``v``, which mixes units: from ``x`` itself the cell is diagonal, and exact learning cheap.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.shapes import Float, Tensor

SHARPNESS = 8.0
"""``c`` of the paper's equation 4."""
SMALLEST = 2.5e-7
"""Of ``1 - a^2``: with it the derivative of its root is at most 1000, as in the authors' code."""


@dataclass(frozen=True, slots=True)
class RGLRUCell(DiagonalCell):
    """``c_t = a c_{t-1} + sqrt(1 - a^2) i v`` with ``a = exp(-8 r softplus(L))``, ``r, i = sigmoid(W x_t + b)``, ``v = W x_t + b``.

    Where the state is exactly zero, as at the start of an episode, the input enters whole: there is nothing to be normalised with.

    Raises:
        ValueError: for decays that do not fit.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("recurrence", "input", "value")
    vector_names: ClassVar[tuple[str, ...]] = ("decay", "recurrence_bias", "input_bias", "value_bias")

    init_std: float = 0.1
    min_decay: float = 0.9
    max_decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.min_decay < self.max_decay < 1:
            raise ValueError(
                f"0 < min_decay < max_decay < 1 is what fits, got min_decay={self.min_decay} and max_decay={self.max_decay}"
            )

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        recurrence, take, value = self._activations(gates, vectors)
        log_decay = -SHARPNESS * recurrence * functional.softplus(vectors[..., 0, :])
        return log_decay.exp() * state + self._normaliser(log_decay, state) * take * value

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        recurrence, take, value = self._activations(gates, vectors)
        rate = functional.softplus(vectors[0])
        log_decay = -SHARPNESS * recurrence * rate
        decay, normaliser = log_decay.exp(), self._normaliser(log_decay, state)
        fixed = (state == 0) | (normaliser.square() <= SMALLEST)
        by_normaliser = torch.where(fixed, 0, take * value * decay.square() / normaliser)
        to_log_decay = decay * state - by_normaliser
        to_recurrence = -SHARPNESS * rate * recurrence * (1 - recurrence) * to_log_decay
        by_gate = (to_recurrence, normaliser * take * (1 - take) * value, normaliser * take)
        to_decay = -SHARPNESS * recurrence * torch.sigmoid(vectors[0]) * to_log_decay
        return LocalDerivatives(decay, by_gate, (to_decay, *by_gate))

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Matrices N(0, init_std^2), biases 0; ``exp(-softplus(L))`` is uniform in area between the two decays: at ``r = 1/2`` a unit
        remembers 3 to 250 steps."""
        with torch.no_grad():
            matrices.normal_(std=self.init_std)
            vectors.zero_()
            area = torch.empty_like(vectors[0]).uniform_(self.min_decay**2, self.max_decay**2)
            vectors[0] = torch.expm1(-0.5 * area.log()).log()

    @staticmethod
    def _activations(gates: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        recurrence, take, value = (gates + vectors[..., 1:, :]).unbind(-2)
        return torch.sigmoid(recurrence), torch.sigmoid(take), value

    @staticmethod
    def _normaliser(log_decay: Tensor, state: Tensor) -> Tensor:
        root = (-torch.expm1(2 * log_decay)).clamp(min=SMALLEST).sqrt()
        return torch.where(state == 0, torch.ones_like(root), root)
