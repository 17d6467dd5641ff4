"""The linear recurrent unit of Orvieto et al. (ICML 2023): a complex state per unit that turns and decays, driven linearly."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from rtrl_core.cells import rotation
from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.cells.rotation import Rotation
from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class LRUCell(DiagonalCell):
    """``c_t = z c_{t-1} + e^s (B_1 + i B_2) x_t`` with ``z = exp(-exp(nu) + i exp(theta))``, all per unit; the heads read both parts.

    Real and imaginary part of ``B`` share one sensitivity: one number per real parameter and stream.

    Raises:
        ValueError: for radii or a phase that do not fit.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("real", "imaginary")
    vector_names: ClassVar[tuple[str, ...]] = ("nu", "theta", "log_scale")
    num_states: ClassVar[int] = 2
    is_complex_linear: ClassVar[bool] = True

    min_radius: float = 0.9
    max_radius: float = 0.999
    max_phase: float = 6.28

    def __post_init__(self) -> None:
        rotation.check_radii(self.min_radius, self.max_radius, self.max_phase)

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        nu, theta, log_scale = vectors.unbind(-2)
        return Rotation.of(nu, theta).turn(state) + log_scale.exp().unsqueeze(-2) * gates

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        nu, theta, log_scale = vectors.unbind(-2)
        turning = Rotation.of(nu, theta)
        turned = turning.turn(state)
        scale = log_scale.exp().expand(state[..., 0, :].shape)
        nothing = torch.zeros_like(scale)
        return LocalDerivatives(
            turning.matrix(state).contiguous(),
            (torch.stack([scale, nothing], dim=-2), torch.stack([nothing, scale], dim=-2)),
            (
                -turning.decay * turned,
                turning.phase * rotation.quarter_turn(turned),
                log_scale.exp() * gates,
            ),
        )

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """``B`` from N(0, 1/(2 D)) per part; ``z`` uniform on a ring; ``e^s = sqrt(1 - |z|^2)``."""
        with torch.no_grad():
            matrices.normal_(std=math.sqrt(0.5 / matrices.shape[-1]))
            rotation.initialise(vectors[0], vectors[1], self.min_radius, self.max_radius, self.max_phase)
            vectors[2] = Rotation.of(vectors[0], vectors[1]).normaliser.log()
