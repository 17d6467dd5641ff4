"""What cells that turn a complex state have in common: ``z = r e^{i phi}`` with ``r = exp(-exp(nu))``, ``phi = exp(theta)``, and its start.

The state of a unit is the pair ``(c_1, c_2)`` of real and imaginary part. Orvieto et al. (ICML 2023), section 3.
"""

import math
from typing import NamedTuple

import torch

from rtrl_core.shapes import Float, Tensor


class Rotation(NamedTuple):
    """``z c = (cosine c_1 - sine c_2, sine c_1 + cosine c_2)`` per unit."""

    decay: Float[Tensor, "*batch N"]
    """``e^nu``."""
    phase: Float[Tensor, "*batch N"]
    """``e^theta``."""
    radius: Float[Tensor, "*batch N"]
    cosine: Float[Tensor, "*batch N"]
    """``r cos(phi)``."""
    sine: Float[Tensor, "*batch N"]
    """``r sin(phi)``."""

    @classmethod
    def of(cls, nu: Float[Tensor, "*batch N"], theta: Float[Tensor, "*batch N"]) -> "Rotation":
        decay, phase = nu.exp(), theta.exp()
        radius = (-decay).exp()
        return cls(decay, phase, radius, radius * phase.cos(), radius * phase.sin())

    @property
    def normaliser(self) -> Float[Tensor, "*batch N"]:
        """``sqrt(1 - r^2)``, which keeps the size of the state that of the input, however long it is remembered."""
        return (-torch.expm1(-2 * self.decay)).sqrt()

    def turn(self, state: Float[Tensor, "*batch M N"]) -> Float[Tensor, "*batch M N"]:
        first, second = state.unbind(-2)
        return torch.stack([self.cosine * first - self.sine * second, self.sine * first + self.cosine * second], dim=-2)

    def matrix(self, state: Float[Tensor, "*batch M N"]) -> Float[Tensor, "*batch M M N"]:
        """The same as a matrix, once for each of the batch of ``state``."""
        rows = torch.stack(
            [torch.stack([self.cosine, -self.sine], dim=-2), torch.stack([self.sine, self.cosine], dim=-2)], dim=-3
        )
        return rows.expand(*state.shape[:-2], 2, 2, state.shape[-1])


def quarter_turn(state: Float[Tensor, "*batch M N"]) -> Float[Tensor, "*batch M N"]:
    """Times i."""
    first, second = state.unbind(-2)
    return torch.stack([-second, first], dim=-2)


def check_radii(min_radius: float, max_radius: float, max_phase: float) -> None:
    """Raises ``ValueError`` for what is no ring inside the unit circle, or no angle."""
    if not 0 <= min_radius < max_radius <= 1:
        raise ValueError(
            f"0 <= min_radius < max_radius <= 1 is what fits, got min_radius={min_radius} and max_radius={max_radius}"
        )
    if not 0 < max_phase <= 2 * math.pi:
        raise ValueError(f"max_phase must be above 0 and at most 2 pi, got {max_phase}")


def initialise(
    nu: Float[Tensor, " N"], theta: Float[Tensor, " N"], min_radius: float, max_radius: float, max_phase: float
) -> None:
    """Uniform on the ring between the two radii, up to the phase (Orvieto et al. 2023, lemma 3.2)."""
    area = torch.empty_like(nu).uniform_(min_radius**2, max_radius**2)
    smallest, largest = torch.finfo(nu.dtype).tiny, 1 - torch.finfo(nu.dtype).eps
    nu.copy_((-0.5 * area.clamp(smallest, largest).log()).log())
    theta.copy_(torch.empty_like(theta).uniform_(0, max_phase).clamp(min=smallest).log())
