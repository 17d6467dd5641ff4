"""The RTRL sensitivity: how the present state of each stream depends on every parameter of the core."""

from collections.abc import Iterable
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

    def reset_(self, streams: Bool[Tensor, " B"]) -> None:
        """Zeroes the named streams in place, whatever they held, NaN and infinity too; the others are neither read nor written.

        The rules do the same where ``is_first`` says so: this is for a stream that has to begin anew inside an episode.
        """
        index = streams.nonzero().squeeze(1)
        for part in self:
            part.index_fill_(0, index, 0)

    @property
    def size_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self)

    def stream_norms(self) -> Float[Tensor, " B"]:
        """Frobenius norm of each stream's sensitivity, in float64; finite if and only if every entry of the stream is.

        One read of the state at the speed of memory. Where the squares overflow (1e19 in float32) the stream is read again, scaled.
        """
        norms = _frobenius(self)
        for stream in (~norms.isfinite()).nonzero().squeeze(1).tolist():
            parts = [part[stream : stream + 1] for part in self]
            largest = torch.stack([part.abs().max() for part in parts]).max()
            scaled = _frobenius([part / largest for part in parts])
            norms[stream] = (scaled[0] * largest).clamp(max=torch.finfo(torch.float64).max)
        return norms

    def finite_streams(self) -> Bool[Tensor, " B"]:
        """Streams that hold finite numbers only: ``stream_norms().isfinite()``, for whoever does not want the norms."""
        return self.stream_norms().isfinite()

    def norm(self) -> Float[Tensor, ""]:
        """Root mean square over streams of ``stream_norms``."""
        return self.stream_norms().square().mean().sqrt()

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


def _frobenius(parts: Iterable[Tensor]) -> Float[Tensor, " B"]:
    """Norm over all axes but the first, and over the parts together."""
    norms = [torch.linalg.vector_norm(part.flatten(1), dim=1).double() for part in parts]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)
