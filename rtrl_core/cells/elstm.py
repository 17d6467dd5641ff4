"""The element-wise LSTM of Irie, Gopalakrishnan & Schmidhuber (ICLR 2024), equations 5-6; its output gate is in ``recurrent.py``."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class ELSTMCell(DiagonalCell):
    """Coupled forget gate ``f`` and candidate ``z``; the state ``c`` is the only thing that recurs.

    f_t = sigmoid(F x_t + w^f * c_{t-1} + b^f)
    z_t = tanh   (Z x_t + w^z * c_{t-1} + b^z)
    c_t = f_t * c_{t-1} + (1 - f_t) * z_t
    """

    gate_names: ClassVar[tuple[str, ...]] = ("forget", "candidate")
    vector_names: ClassVar[tuple[str, ...]] = (
        "forget_recurrent",
        "candidate_recurrent",
        "forget_bias",
        "candidate_bias",
    )

    init_std: float = 0.1
    forget_bias: float = 0.0

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        forget, candidate = self._activations(state, gates, vectors)
        return torch.lerp(candidate, state, forget)

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        """The paper's recursions (its equations 8-12): ``a``, ``u^f`` and ``u^z``."""
        forget, candidate = self._activations(state, gates, vectors)
        keep = 1 - forget
        to_candidate = keep * torch.addcmul(
            torch.ones((), dtype=keep.dtype, device=keep.device), candidate, candidate, value=-1
        )
        to_forget = (state - candidate).mul_(forget).mul_(keep)
        recurrence = torch.addcmul(forget, to_candidate, vectors[1]).addcmul_(to_forget, vectors[0])
        return LocalDerivatives(
            recurrence,
            (to_forget, to_candidate),
            (to_forget * state, to_candidate * state, to_forget, to_candidate),
        )

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Everything from N(0, init_std^2), then ``forget_bias`` added to ``b^f``: the official initialisation."""
        with torch.no_grad():
            matrices.normal_(std=self.init_std)
            vectors.normal_(std=self.init_std)
            vectors[2] += self.forget_bias

    @staticmethod
    def _activations(state: Tensor, gates: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        pre_activation = torch.addcmul(gates, vectors[..., :2, :], state.unsqueeze(-2)) + vectors[..., 2:, :]
        return torch.sigmoid(pre_activation[..., 0, :]), torch.tanh(pre_activation[..., 1, :])
