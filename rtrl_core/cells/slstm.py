"""The sLSTM of Beck et al. (xLSTM, NeurIPS 2024) without recurrent connections: an exponential input gate, normalised, stabilised."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class SLSTMCell(DiagonalCell):
    """``c_t = f c_{t-1} + i z``, ``n_t = f n_{t-1} + i``; the heads read ``c_t / n_t``.

    ``f = exp(log sigmoid(u_f) + m_{t-1} - m_t)``, ``i = exp(u_i - m_t)``, ``z = tanh(u_z)``, with ``m_t = max(log sigmoid(u_f) + m_{t-1},
    u_i)``: the third row of the state. What is read does not depend on ``m``, so it is a constant to all derivatives. An empty state
    (``n = 0``) has none: there ``m_t = u_i``.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("forget", "input", "candidate")
    vector_names: ClassVar[tuple[str, ...]] = ("forget_bias", "input_bias", "candidate_bias")
    num_states: ClassVar[int] = 2
    num_scales: ClassVar[int] = 1

    init_std: float = 0.1
    forget_bias: float = 0.0

    @property
    def outputs_per_unit(self) -> int:
        return 1

    def output(self, state: Float[Tensor, "*state"]) -> Float[Tensor, "*output"]:
        return state[..., 0, :] / state[..., 1, :]

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        forget, take, candidate, scale = self._activations(state, gates, vectors)
        cell, normaliser, _ = state.unbind(-2)
        return torch.stack([forget * cell + take * candidate, forget * normaliser + take, scale], dim=-2)

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        forget, take, candidate, _ = self._activations(state, gates, vectors)
        kept = forget.unsqueeze(-2) * self.differentiated(state)
        nothing = torch.zeros_like(take)
        by_gate = (
            kept * torch.sigmoid(-(gates[..., 0, :] + vectors[0])).unsqueeze(-2),
            torch.stack([take * candidate, take], dim=-2),
            torch.stack([take * (1 - candidate.square()), nothing], dim=-2),
        )
        rows = [torch.stack([forget, nothing], dim=-2), torch.stack([nothing, forget], dim=-2)]
        return LocalDerivatives(torch.stack(rows, dim=-3), by_gate, by_gate)

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Matrices N(0, init_std^2); biases 0, but ``forget_bias`` for ``f``."""
        with torch.no_grad():
            matrices.normal_(std=self.init_std)
            vectors.zero_()
            vectors[0] += self.forget_bias

    @staticmethod
    def _activations(state: Tensor, gates: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        forget, take, candidate = (gates + vectors).unbind(-2)
        is_empty = state[..., 1, :] == 0
        log_forget = functional.logsigmoid(forget) + state[..., 2, :]
        scale = torch.where(is_empty, take, torch.maximum(log_forget, take)).detach()
        kept = torch.where(is_empty, torch.zeros_like(scale), log_forget - scale).exp()
        return kept, (take - scale).exp(), torch.tanh(candidate), scale
