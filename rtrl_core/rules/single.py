"""The algebra of cells whose units have one number of state each: ``a_t`` is a number per unit, and products of it are numbers.

What touches the sensitivity is written for a CPU whose memory is the limit: a block of streams at a time, so that what one call has
read or written is still in the cache when the next comes to it. ``Algebra`` says what each function computes.
"""

from collections.abc import Sequence

import torch

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.rules.scan import (
    FLUSH_EVERY,
    ParameterGradients,
    cache_blocks,
    flush,
    flush_below,
    negligible,
    sum_of_products,
)
from rtrl_core.rules.starts import Starts, runs
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor

STREAMS_PER_SUM = 4
"""Streams that one call adds up: sums of a single one are so short that starting them costs as much."""


def adjoints(
    immediate: Float[Tensor, "T B N"], recurrence: Float[Tensor, "T B N"], starts: Starts
) -> tuple[Tensor, Tensor]:
    adjoint = torch.empty_like(immediate)
    adjoint[-1] = immediate[-1]
    floor = negligible(immediate)
    for t in range(immediate.shape[0] - 2, -1, -1):
        torch.addcmul(immediate[t], recurrence[t + 1], adjoint[t + 1], out=adjoint[t])
        if t + 1 in starts.at:
            torch.where(starts.mask[t + 1], immediate[t], adjoint[t], out=adjoint[t])
        if floor is not None and t % FLUSH_EVERY == 0:
            flush_below(floor, adjoint[t])
    before = recurrence[0] * adjoint[0]
    return adjoint, before.index_fill_(0, starts.at[0], 0) if 0 in starts.at else before


def decays(recurrence: Float[Tensor, "T B N"]) -> tuple[Tensor, Tensor]:
    """``prod_{s>t} a_s`` for every ``t``, and the product of all of them; returns ``([T B N], [B N])``.

    They mean something from the last start of a stream on: what is older is forgotten, not multiplied.
    """
    after = torch.empty_like(recurrence)
    after[-1] = 1
    for t in range(recurrence.shape[0] - 2, -1, -1):
        torch.mul(after[t + 1], recurrence[t + 1], out=after[t])
        if t % FLUSH_EVERY == 0:
            flush(after[t])
    return after, flush(after[0] * recurrence[0])


def gate_adjoints(adjoint: Float[Tensor, "T B N"], local: LocalDerivatives) -> Float[Tensor, "T B K N"]:
    return _weigh(adjoint, local.gates)


def vector_gradients(adjoint: Float[Tensor, "T B N"], local: LocalDerivatives) -> Float[Tensor, "P N"]:
    return torch.stack([sum_of_products(adjoint, vector) for vector in local.vectors]).sum(1)


def step(
    sensitivity: Sensitivity, local: LocalDerivatives, inputs: Float[Tensor, "B D"], is_first: Bool[Tensor, " B"]
) -> Sensitivity:
    matrices = torch.where(is_first[:, None, None, None], 0, sensitivity.matrices)
    vectors = torch.where(is_first[:, None, None], 0, sensitivity.vectors)
    for k, gate in enumerate(local.gates):
        matrices[:, k] = local.state[:, :, None] * matrices[:, k] + gate[:, :, None] * inputs[:, None, :]
    for p, vector in enumerate(local.vectors):
        vectors[:, p] = local.state * vectors[:, p] + vector
    return Sensitivity(matrices, vectors)


def advance(
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
    out: Sensitivity,
) -> None:
    """One read and one write of the sensitivity. In a stream in which an episode begins ``S_0`` is not read."""
    segment = _Segment(local, inputs, starts)
    for block in _cache_blocks(sensitivity):
        segment.advance(block, sensitivity.matrices, out.matrices)
    segment.advance_vectors(sensitivity.vectors, out.vectors)


def contract(
    cell: DiagonalCell, adjoint: Float[Tensor, "B N"], sensitivity: Sensitivity, starts: Starts | None = None
) -> ParameterGradients:
    """One read. From the last stream to the first, against the order of ``advance``: each begins with what the other has left in
    the cache."""
    del cell
    without: frozenset[int] = frozenset() if starts is None else starts.first
    total = _Sum(sensitivity, adjoint)
    for stop in range(adjoint.shape[0], 0, -STREAMS_PER_SUM):
        total.add(slice(max(0, stop - STREAMS_PER_SUM), stop), without)
    return total.gradients(starts)


def contract_and_advance(
    cell: DiagonalCell,
    adjoint: Float[Tensor, "B N"],
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
) -> ParameterGradients:
    del cell
    segment, total = _Segment(local, inputs, starts), _Sum(sensitivity, adjoint)
    for start in range(0, adjoint.shape[0], STREAMS_PER_SUM):
        block = slice(start, min(start + STREAMS_PER_SUM, adjoint.shape[0]))
        total.add(block, starts.first)
        segment.advance(block, sensitivity.matrices, sensitivity.matrices)
    gradients = total.gradients(starts)
    segment.advance_vectors(sensitivity.vectors, sensitivity.vectors)
    return gradients


class _Segment:
    """What an unroll does to a sensitivity, a block of streams at a time."""

    def __init__(self, local: LocalDerivatives, inputs: Float[Tensor, "T B D"], starts: Starts) -> None:
        self._starts, self._vectors = starts, local.vectors
        self._after, self._total = decays(local.state)
        self._decay = self._total[:, None, :, None]
        self._single = len(inputs) == 1
        weights = _weigh(self._after, local.gates)
        if self._single:
            self._weights, self._inputs = weights[0].unsqueeze(-1), inputs[0, :, None, None]
            return
        weights = weights.flatten(2)
        if len(starts.older):
            inputs = inputs.clone(memory_format=torch.contiguous_format)
            starts.forget_older_(weights)
            starts.forget_older_(inputs)
        self._weights, self._inputs = weights.permute(1, 2, 0), inputs.transpose(0, 1)

    def advance(self, block: slice, before: Float[Tensor, "B K N D"], out: Float[Tensor, "B K N D"]) -> None:
        """``S_T = (prod a) S_0 + sum_t w_t x_t^T`` in these streams; a stream in which an episode begins has no first term."""
        in_place = before is out
        if not in_place and not self._single:
            torch.bmm(self._weights[block], self._inputs[block], out=out[block].flatten(1, 2))
            for run, begins in runs(block, self._starts.last):
                if not begins:
                    out[run].addcmul_(before[run], self._decay[run])
            return
        for run, begins in runs(block, self._starts.last):
            if begins:
                out[run] = 0
            else:
                torch.mul(before[run], self._decay[run], out=out[run])
        if self._single:
            out[block].addcmul_(self._weights[block], self._inputs[block])
        else:
            out[block].flatten(1, 2).baddbmm_(self._weights[block], self._inputs[block])

    def advance_vectors(self, before: Float[Tensor, "B P N"], out: Float[Tensor, "B P N"]) -> None:
        torch.mul(before, self._total[:, None], out=out)
        out.index_fill_(0, self._starts.streams, 0)
        for p, vector in enumerate(self._vectors):
            out[:, p] += vector[0] if self._single else sum_of_products(self._after, vector, self._starts)


class _Sum:
    """``sum_b lam_b S_b``, a few streams at a time; they are added up at the end."""

    def __init__(self, sensitivity: Sensitivity, adjoint: Float[Tensor, "B N"]) -> None:
        self._sensitivity, self._adjoint = sensitivity, adjoint
        self._weights = adjoint[:, None, :, None]
        self._sums: Tensor | None = None

    def add(self, block: slice, without: frozenset[int]) -> None:
        for run, left_out in runs(block, without):
            if left_out:
                continue
            rows = self._sensitivity.matrices[run]
            if self._sums is None:
                self._sums = rows.new_empty(STREAMS_PER_SUM, *rows.shape[1:])
                torch.mul(rows, self._weights[run], out=self._sums[: len(rows)])
                self._sums[len(rows) :] = 0
            else:
                self._sums[: len(rows)].addcmul_(rows, self._weights[run])

    def gradients(self, starts: Starts | None) -> ParameterGradients:
        if self._sums is None:
            return ParameterGradients.zeros(self._sensitivity)
        vectors = self._sensitivity.vectors
        if starts is not None and starts.first:
            vectors = vectors.index_fill(0, starts.at[0], 0)
        return ParameterGradients(self._sums.sum(0), torch.einsum("bn,bpn->pn", self._adjoint, vectors))


def _weigh(weights: Float[Tensor, "*batch N"], gates: Sequence[Tensor]) -> Float[Tensor, "*batch K N"]:
    """``weights * g_k`` for every gate, in one contiguous block ready for a GEMM."""
    weighed = weights.new_empty(*weights.shape[:-1], len(gates), weights.shape[-1])
    for k, gate in enumerate(gates):
        torch.mul(weights, gate, out=weighed[..., k, :])
    return weighed


def _cache_blocks(sensitivity: Sensitivity) -> list[slice]:
    batch_size = sensitivity.matrices.shape[0]
    return cache_blocks(batch_size, sensitivity.matrices.nbytes // batch_size)
