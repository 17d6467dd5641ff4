"""The RTRL sensitivity: how the present state of each stream depends on every parameter of the core."""

from typing import NamedTuple

import torch

from rtrl_core.shapes import Bool, Float, Tensor


class Sensitivity(NamedTuple):
    """``S = dc_t / d theta`` of a diagonal cell, one number per core parameter and stream.

    Off-diagonal entries are exactly zero (unit ``i`` never sees the parameters of unit ``j``), so this is the whole
    Jacobian: ``B (K N D + P N)`` numbers, 1.06 MB per stream for an eLSTM with N=512, D=257 in float32.
    """

    matrices: Float[Tensor, "B K N D"]
    """``d c[b, n] / d W[k, n, d]``."""
    vectors: Float[Tensor, "B P N"]
    """``d c[b, n] / d p[n]``."""

    @classmethod
    def zeros(
        cls,
        batch_size: int,
        matrices: Float[Tensor, "K N D"],
        vectors: Float[Tensor, "P N"],
        *,
        device: torch.device | str | None = None,
    ) -> "Sensitivity":
        """The sensitivity of a constant initial state, for parameters of the given shapes. At least float32."""
        dtype = torch.promote_types(matrices.dtype, torch.float32)
        device = matrices.device if device is None else device
        return cls(
            torch.zeros(batch_size, *matrices.shape, dtype=dtype, device=device),
            torch.zeros(batch_size, *vectors.shape, dtype=dtype, device=device),
        )

    def reset_(self, is_first: Bool[Tensor, " B"]) -> None:
        """Zeroes the streams that start a new episode, in place. The rules fold this into the recurrence; a user need not call it."""
        keep = ~is_first
        self.matrices.mul_(keep[:, None, None, None])
        self.vectors.mul_(keep[:, None, None])

    @property
    def size_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self)

    def norm(self) -> Tensor:
        """Root mean square over streams of the Frobenius norm of a stream's sensitivity (a scalar tensor)."""
        squares = [torch.linalg.vector_norm(part, dtype=torch.float32).square() for part in self]
        return (torch.stack(squares).sum() / self.matrices.shape[0]).sqrt()

    def empty_like(self) -> "Sensitivity":
        """An uninitialised sensitivity of the same shapes, to be passed as ``out``."""
        return type(self)(*(torch.empty_like(part) for part in self))

    def to(self, device: torch.device | str) -> "Sensitivity":
        return type(self)(*(part.to(device) for part in self))

    def state_dict(self) -> dict[str, Tensor]:
        return self._asdict()

    @classmethod
    def from_state_dict(cls, tensors: dict[str, Tensor]) -> "Sensitivity":
        return cls(**{name: tensors[name] for name in cls._fields})
