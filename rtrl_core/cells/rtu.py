"""Recurrent trace units (Elelimy, White, Bowling and White, NeurIPS 2024): a real pair per unit that turns, with its input scaled to fit.

The gradients are those of the definition, with the factor ``exp(theta)`` of the angle's derivative.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from rtrl_core.cells import rotation
from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.cells.rotation import Rotation
from rtrl_core.shapes import Float, Tensor

_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "tanh": (torch.tanh, lambda after: 1 - after.square()),
    "relu": (torch.relu, lambda after: (after > 0).to(after.dtype)),
    "identity": (torch.clone, torch.ones_like),
}
"""The function, and its derivative in terms of its result."""


@dataclass(frozen=True, slots=True)
class _TraceUnits(DiagonalCell):
    """What both kinds share: options, start, and ``s_t = z c_{t-1} + sqrt(1 - r^2) (W_1 x_t, W_2 x_t)`` with ``z = r e^{i phi}``."""

    gate_names: ClassVar[tuple[str, ...]] = ("first", "second")
    vector_names: ClassVar[tuple[str, ...]] = ("nu", "theta")
    num_states: ClassVar[int] = 2

    min_radius: float = 0.5
    max_radius: float = 0.99
    max_phase: float = 6.28
    activation: str = "tanh"

    def __post_init__(self) -> None:
        rotation.check_radii(self.min_radius, self.max_radius, self.max_phase)
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {self.activation!r}")

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Matrices from N(0, 1/D); ``z`` uniform on a ring that leaves out 1, which some published seeds did not survive."""
        with torch.no_grad():
            matrices.normal_(std=1 / math.sqrt(matrices.shape[-1]))
            rotation.initialise(vectors[0], vectors[1], self.min_radius, self.max_radius, self.max_phase)

    def _activate(self, state: Tensor) -> Tensor:
        return _ACTIVATIONS[self.activation][0](state)

    @staticmethod
    def _drive(state: Tensor, gates: Tensor, vectors: Tensor) -> Tensor:
        turning = Rotation.of(*vectors.unbind(-2))
        return turning.turn(state) + turning.normaliser.unsqueeze(-2) * gates

    @staticmethod
    def _derivatives(state: Tensor, gates: Tensor, vectors: Tensor) -> LocalDerivatives:
        """Of ``s_t``."""
        turning = Rotation.of(*vectors.unbind(-2))
        turned, normaliser = turning.turn(state), turning.normaliser
        by_radius = turning.decay * turning.radius.square() / normaliser
        scale = normaliser.expand(state[..., 0, :].shape)
        nothing = torch.zeros_like(scale)
        return LocalDerivatives(
            turning.matrix(state).contiguous(),
            (torch.stack([scale, nothing], dim=-2), torch.stack([nothing, scale], dim=-2)),
            (
                torch.addcmul(by_radius * gates, turning.decay, turned, value=-1),
                turning.phase * rotation.quarter_turn(turned),
            ),
        )


@dataclass(frozen=True, slots=True)
class LinearRTUCell(_TraceUnits):
    """``c_t = s_t``; the heads read ``activation(c_t)``. One number of sensitivity per parameter of the two matrices and stream.

    Raises:
        ValueError: for radii, a phase or an activation that do not fit.
    """

    is_complex_linear: ClassVar[bool] = True

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        return self._drive(state, gates, vectors)

    def output(self, state: Float[Tensor, "*state"]) -> Float[Tensor, "*output"]:
        return self._activate(state.flatten(-2))

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        return self._derivatives(state, gates, vectors)


@dataclass(frozen=True, slots=True)
class RTUCell(_TraceUnits):
    """``c_t = activation(s_t)``, inside the recurrence. Two numbers of sensitivity per parameter and stream.

    Raises:
        ValueError: for radii, a phase or an activation that do not fit.
    """

    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        return self._activate(self._drive(state, gates, vectors))

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        inner = self._derivatives(state, gates, vectors)
        slope = _ACTIVATIONS[self.activation][1](self.forward(state, gates, vectors))
        return LocalDerivatives(
            slope.unsqueeze(-2) * inner.state,
            tuple(slope * gate for gate in inner.gates),
            tuple(slope * vector for vector in inner.vectors),
        )
