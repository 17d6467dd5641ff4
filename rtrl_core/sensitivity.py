"""The RTRL sensitivity of a diagonal cell: how the present state of each stream depends on every parameter of the core."""

from typing import NamedTuple

import torch

from rtrl_core import carried
from rtrl_core.shapes import Bool, Float, Tensor


@carried.readable
class Sensitivity(NamedTuple):
    """``S = dc_t / d theta`` of a diagonal cell, one number per core parameter, number of a unit's state, and stream.

    Off-diagonal entries are exactly zero (unit ``i`` never sees the parameters of unit ``j``), so this is the whole
    Jacobian: ``B M (K N D + P N)`` numbers, 1.06 MB per stream for an eLSTM with N=512, D=257 in float32.
    """

    matrices: Float[Tensor, "B K ... N D"]
    """``d c[b, n] / d W[k, n, d]``, ``[B, K, N, D]``; with ``M`` numbers per unit ``d c[b, m, n] / d W[k, n, d]``, ``[B, K, M, N, D]``."""
    vectors: Float[Tensor, "B P ... N"]
    """``d c[b, n] / d p[n]``, ``[B, P, N]``; with ``M`` numbers per unit ``[B, P, M, N]``."""

    @classmethod
    def zeros(
        cls,
        batch_size: int,
        matrices: Float[Tensor, "K N D"],
        vectors: Float[Tensor, "P N"],
        *,
        num_states: int = 1,
        device: torch.device | str | None = None,
    ) -> "Sensitivity":
        """The sensitivity of a constant initial state, for parameters of the given shapes. At least float32.

        Args:
            matrices: those that are carried, see ``DiagonalCell.carried_gates``.
            num_states: M.
        """
        dtype = torch.promote_types(matrices.dtype, torch.float32)
        device = matrices.device if device is None else device
        per_unit = () if num_states == 1 else (num_states,)
        return cls(
            *(
                torch.zeros(batch_size, part.shape[0], *per_unit, *part.shape[1:], dtype=dtype, device=device)
                for part in (matrices, vectors)
            )
        )

    def reset_(self, streams: Bool[Tensor, " B"]) -> None:
        """Zeroes the named streams in place, whatever they held.

        The rules do the same where ``is_first`` says so: this is for a stream that has to begin anew inside an episode.
        """
        carried.reset_(self, streams)

    @property
    def size_bytes(self) -> int:
        return carried.size_bytes(self)

    def stream_norms(self) -> Float[Tensor, " B"]:
        """Frobenius norm of each stream's sensitivity: see ``carried.stream_norms``."""
        norms = carried.stream_norms(self)
        assert norms is not None
        return norms

    def finite_streams(self) -> Bool[Tensor, " B"]:
        """Streams that hold finite numbers only: ``stream_norms().isfinite()``, for whoever does not want the norms."""
        return self.stream_norms().isfinite()

    def norm(self) -> Float[Tensor, ""]:
        """Root mean square over streams of ``stream_norms``."""
        return self.stream_norms().square().mean().sqrt()

    def empty_like(self) -> "Sensitivity":
        """An uninitialised sensitivity of the same shapes."""
        return carried.map_leaves(torch.empty_like, self)
