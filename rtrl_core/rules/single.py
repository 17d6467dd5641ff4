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
    sums_of_products,
)
from rtrl_core.rules.starts import ListedStarts, Starts, runs
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor

SUM_BYTES = 5 << 19
"""Streams that one call adds up: no more than stay in the cache, no fewer than hide the call."""
SUM_STREAMS = 4
"""From so many on they are added up by a product of matrices."""


def adjoints(
    immediate: Float[Tensor, "T B N"], recurrence: Float[Tensor, "T B N"], starts: Starts
) -> tuple[Tensor, Tensor]:
    adjoint = torch.empty_like(immediate)
    adjoint[-1] = immediate[-1]
    floor = negligible(immediate)
    for t in range(immediate.shape[0] - 2, -1, -1):
        torch.addcmul(immediate[t], recurrence[t + 1], adjoint[t + 1], out=adjoint[t])
        if starts.may_begin_at(t + 1):
            starts.replace_at_(adjoint[t], t + 1, immediate[t])
        if floor is not None and t % FLUSH_EVERY == 0:
            flush_below(floor, adjoint[t])
    return adjoint, starts.clear_at_(recurrence[0] * adjoint[0], 0)


def decays(recurrence: Float[Tensor, "T B N"]) -> tuple[Tensor, Tensor]:
    """``prod_{s>t} a_s`` for every ``t``, and the product of all of them; returns ``([T B N], [B N])``.

    They mean something from the last start of a stream on: what is older is forgotten, not multiplied.
    """
    if recurrence.device.type != "cpu":
        products = recurrence.flip(0).cumprod(0)
        return torch.cat([torch.ones_like(products[:1]), products[:-1]]).flip(0), products[-1].clone()
    after = torch.empty_like(recurrence)
    after[-1] = 1
    products, factors = after.unbind(0), recurrence.unbind(0)
    for t in range(len(factors) - 2, -1, -1):
        torch.mul(products[t + 1], factors[t + 1], out=products[t])
        if t % FLUSH_EVERY == 0:
            flush(products[t])
    return after, flush(products[0] * factors[0])


def gate_adjoints(adjoint: Float[Tensor, "T B N"], local: LocalDerivatives) -> Float[Tensor, "T B K N"]:
    return _weigh(adjoint, local.gates)


def vector_gradients(adjoint: Float[Tensor, "T B N"], local: LocalDerivatives) -> Float[Tensor, "P N"]:
    sums = [total.sum(0) for total in sums_of_products(adjoint, local.vectors)]
    return torch.stack(sums) if sums else adjoint.new_zeros(0, adjoint.shape[-1])


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
    for block in cache_blocks(len(inputs[0]), sensitivity.matrices[0].nbytes, device=inputs.device):
        segment.advance(block, sensitivity.matrices, out.matrices)
    segment.advance_vectors(sensitivity.vectors, out.vectors)


def contract(
    cell: DiagonalCell, adjoint: Float[Tensor, "B N"], sensitivity: Sensitivity, starts: Starts | None = None
) -> ParameterGradients:
    """One read. From the last stream to the first, against the order of ``advance``: each begins with what the other has left in
    the cache."""
    del cell
    total = _Sum(sensitivity.matrices, adjoint)
    for block in reversed(total.blocks):
        total.add(block, starts)
    return total.gradients(sensitivity.vectors, starts)


def contract_and_advance(
    cell: DiagonalCell,
    adjoint: Float[Tensor, "B N"],
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
) -> ParameterGradients:
    del cell
    segment, total = _Segment(local, inputs, starts), _Sum(sensitivity.matrices, adjoint)
    for block in total.blocks:
        total.add(block, starts)
        segment.advance(block, sensitivity.matrices, sensitivity.matrices)
    gradients = total.gradients(sensitivity.vectors, starts)
    segment.advance_vectors(sensitivity.vectors, sensitivity.vectors)
    return gradients


def advance_and_contract(
    cell: DiagonalCell,
    immediate: Float[Tensor, "B N"],
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
) -> ParameterGradients:
    del cell
    segment, total = _Segment(local, inputs, starts), _Sum(sensitivity.matrices, immediate)
    segment.advance_vectors(sensitivity.vectors, sensitivity.vectors)
    for block in total.blocks:
        segment.advance(block, sensitivity.matrices, sensitivity.matrices)
        total.add(block, None)
    return total.gradients(sensitivity.vectors, None)


class _Segment:
    """What an unroll does to a sensitivity, a block of streams at a time.

    All that is computed of the unroll alone is so before the sensitivity drives it out of the cache.
    """

    def __init__(self, local: LocalDerivatives, inputs: Float[Tensor, "T B D"], starts: Starts) -> None:
        self._starts, self._single = starts, len(inputs) == 1
        after, self._total = decays(local.state)
        starts.clear_begun_(self._total)
        self._decay = self._total[:, None, :, None]
        weights = _weigh(after, local.gates)
        if self._single:
            self._added = [vector[0] for vector in local.vectors]
            self._weights, self._inputs = weights[0].unsqueeze(-1), inputs[0, :, None, None]
            return
        if starts.forgets:
            inputs = inputs.clone(memory_format=torch.contiguous_format)
            starts.forget_older_(weights.flatten(2))
            starts.forget_older_(inputs)
        self._added = _weighed_sums(after, weights, local, starts)
        self._weights, self._inputs = weights.flatten(2).permute(1, 2, 0), inputs.transpose(0, 1)

    def advance(self, block: slice, before: Float[Tensor, "B K N D"], out: Float[Tensor, "B K N D"]) -> None:
        """``S_T = (prod a) S_0 + sum_t w_t x_t^T`` in these streams; a stream in which an episode begins has no first term."""
        if not isinstance(self._starts, ListedStarts):
            self._advance_all(before, out)
            return
        if self._single:
            for run, begins in runs(block, self._starts.last):
                if begins:
                    torch.mul(self._weights[run], self._inputs[run], out=out[run])
                else:
                    torch.mul(before[run], self._decay[run], out=out[run])
                    out[run].addcmul_(self._weights[run], self._inputs[run])
            return
        if before is not out:
            torch.bmm(self._weights[block], self._inputs[block], out=out[block].flatten(1, 2))
            for run, begins in runs(block, self._starts.last):
                if not begins:
                    out[run].addcmul_(before[run], self._decay[run])
            return
        forgotten = [stream for stream in range(block.start, block.stop) if stream in self._starts.last]
        for stream in forgotten:
            out[stream] = 0
        if len(forgotten) < block.stop - block.start:
            out[block].mul_(self._decay[block])
        out[block].flatten(1, 2).baddbmm_(self._weights[block], self._inputs[block])

    def _advance_all(self, before: Float[Tensor, "B K N D"], out: Float[Tensor, "B K N D"]) -> None:
        """Where the host does not know in which streams an episode begins."""
        if before is not out:
            out.copy_(before)
        self._starts.clear_begun_(out).mul_(self._decay)
        if self._single:
            out.addcmul_(self._weights, self._inputs)
        else:
            out.flatten(1, 2).baddbmm_(self._weights, self._inputs)

    def advance_vectors(self, before: Float[Tensor, "B P N"], out: Float[Tensor, "B P N"]) -> None:
        torch.mul(before, self._total[:, None], out=out)
        self._starts.clear_begun_(out)  # not by the product: what is forgotten need not be a number
        for p, added in enumerate(self._added):
            out[:, p] += added


def _weighed_sums(
    after: Float[Tensor, "T B N"], weights: Float[Tensor, "T B K N"], local: LocalDerivatives, starts: Starts
) -> list[Float[Tensor, "B N"]]:
    """``sum_t (prod_{s>t} a_s) q_{p,t}``. A bias has the derivative of its gate, and so the weights of that."""
    gates = {id(gate): k for k, gate in enumerate(local.gates)}
    of_gates = weights.flatten(2).sum(0).view(weights.shape[1:])
    others = [vector for vector in local.vectors if id(vector) not in gates]
    of_others = iter(sums_of_products(after, others, starts))
    return [of_gates[:, gates[id(vector)]] if id(vector) in gates else next(of_others) for vector in local.vectors]


class _Sum:
    """``sum_b lam_b S_b``, added up a few streams at a time."""

    def __init__(self, matrices: Float[Tensor, "B K N D"], adjoint: Float[Tensor, "B N"]) -> None:
        self._streams, self._adjoint = matrices, adjoint
        num_gates, num_units = matrices.shape[1:3]
        self._rows = matrices.flatten(1, 2).transpose(0, 1)
        weights = adjoint.t().unsqueeze(0).expand(num_gates, num_units, len(adjoint))
        self._weights = weights.reshape(num_gates * num_units, 1, len(adjoint))
        self._sum: Tensor | None = None
        stream_bytes = matrices[0].nbytes
        block_bytes = max(SUM_BYTES, SUM_STREAMS * stream_bytes)
        self.blocks = cache_blocks(len(adjoint), stream_bytes, block_bytes, device=matrices.device)

    def add(self, block: slice, starts: Starts | None) -> None:
        """Without the streams that begin at step 0."""
        if starts is not None and not isinstance(starts, ListedStarts):
            # Nobody reads again what these carry: it is of the episode before.
            starts.clear_at_(self._streams, 0)
            starts = None
        for run, left_out in runs(block, frozenset() if starts is None else starts.first):
            if left_out:
                continue
            if run.stop - run.start >= SUM_STREAMS:
                self._add_many(run)
            else:
                for stream in range(run.start, run.stop):
                    self._add_one(stream)

    def _add_many(self, run: slice) -> None:
        """A product for every row of the matrices, of ``lam`` with the row in all of these streams."""
        weights, rows = self._weights[..., run], self._rows[:, run]
        if self._sum is None:
            self._sum = torch.bmm(weights, rows).view_as(self._streams[0])
        else:
            self._sum.view(len(rows), 1, -1).baddbmm_(weights, rows)

    def _add_one(self, stream: int) -> None:
        rows, weights = self._streams[stream], self._adjoint[stream, :, None]
        self._sum = rows * weights if self._sum is None else self._sum.addcmul_(rows, weights)

    @property
    def matrices(self) -> Float[Tensor, "K N D"]:
        return torch.zeros_like(self._streams[0]) if self._sum is None else self._sum

    def gradients(self, vectors: Float[Tensor, "B P N"], starts: Starts | None) -> ParameterGradients:
        if starts is not None and starts.may_begin_at(0):
            vectors = starts.clear_at_(vectors.clone(), 0)
        return ParameterGradients(self.matrices, (self._adjoint[:, None] * vectors).sum(0))


def _weigh(weights: Float[Tensor, "*batch N"], gates: Sequence[Tensor]) -> Float[Tensor, "*batch K N"]:
    """``weights * g_k`` for every gate, in one contiguous block ready for a GEMM."""
    weighed = weights.new_empty(*weights.shape[:-1], len(gates), weights.shape[-1])
    for k, gate in enumerate(gates):
        torch.mul(weights, gate, out=weighed[..., k, :])
    return weighed
