"""Exact RTRL at the price of truncated BPTT: the segment identity (docs/how-it-works.md).

Inside an unroll that starts from ``(c_0, S_0)``, with the ordinary adjoint ``lam_t = e_t + a_{t+1} lam_{t+1}``::

    dL/dW_k = sum_{t,b} (lam_t g_{k,t}) x_t^T  +  sum_b lam_0 S_0^{W_k}
    S_T     = (prod_t a_t) S_0  +  sum_t (prod_{s>t} a_s g_{k,t}) x_t^T

Equal, number for number, to the step-by-step recursion, but the sensitivity is touched once per unroll instead of once per
step. Without ``lam_0 S_0`` the first line is truncated BPTT (``tbptt.py``).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.autograd.function import once_differentiable

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.rules.exact import ExactRule
from rtrl_core.rules.scan import (
    ParameterGradients,
    adjoints,
    decays,
    forward_scan,
    input_gradients,
    local_derivatives,
    segment_gradients,
    sum_of_products,
    weigh,
)
from rtrl_core.rules.starts import Starts, runs
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Float, Tensor

BLOCK_BYTES = 8 << 20
STREAMS_PER_SUM = 4
"""Streams that one call adds up: sums of a single one are so short that starting them costs as much."""


def advance(
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
    out: Sensitivity,
) -> None:
    """``S_T`` from ``S_0`` into ``out``: one batched GEMM, one read and one write of the state.

    A block of streams at a time, so that what the GEMM has written is still in the cache when the decayed ``S_0`` is added. A stream
    in which an episode begins has the ``S_T`` of an unroll that starts there: its ``S_0`` is not read.
    """
    after, total = decays(local.state)
    weights = weigh(after, local.gates).flatten(2)
    if len(starts.older):
        inputs = inputs.clone()
        starts.forget_older_(weights)
        starts.forget_older_(inputs)
    by_stream, inputs_by_stream = weights.permute(1, 2, 0), inputs.transpose(0, 1)
    for block in _cache_blocks(sensitivity):
        torch.bmm(by_stream[block], inputs_by_stream[block], out=out.matrices[block].flatten(1, 2))
        for run, begins in runs(block, starts.last):
            if not begins:
                out.matrices[run].addcmul_(sensitivity.matrices[run], total[run, None, :, None])
    torch.mul(sensitivity.vectors, total[:, None], out=out.vectors)
    out.vectors.index_fill_(0, starts.streams, 0)
    for p, vector in enumerate(local.vectors):
        out.vectors[:, p] += sum_of_products(after, vector, starts)


def advance_step(
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "B D"],
    starts: Starts,
    out: Sensitivity,
) -> None:
    """``S_t = a_t S_{t-1} + g_t x_t^T`` into ``out`` (which may be ``sensitivity``): online RTRL, the fused form of T=1.

    ``local`` holds one step, each tensor ``[B, N]``.
    """
    gates = torch.stack(local.gates, dim=1).unsqueeze(-1)
    recurrence = local.state[:, None, :, None]
    for block in _cache_blocks(sensitivity):
        for run, begins in runs(block, starts.last):
            if begins:
                out.matrices[run] = 0
            else:
                torch.mul(sensitivity.matrices[run], recurrence[run], out=out.matrices[run])
        out.matrices[block].addcmul_(gates[block], inputs[block, None, None])
    torch.mul(sensitivity.vectors, local.state[:, None], out=out.vectors)
    out.vectors.index_fill_(0, starts.streams, 0)
    out.vectors.add_(torch.stack(local.vectors, dim=1))


def contract(
    adjoint: Float[Tensor, "B N"], sensitivity: Sensitivity, starts: Starts | None = None
) -> ParameterGradients:
    """``sum_b lam_b S_b``: what the past contributes to the gradient, one read of the state. Streams that begin at step 0 have none.

    From the last stream to the first, against the order of ``advance``: each begins with what the other has left in the cache.
    """
    weights, vectors = adjoint[:, None, :, None], sensitivity.vectors
    without: frozenset[int] = frozenset() if starts is None else starts.first
    blocks = [
        slice(max(run.start, stop - STREAMS_PER_SUM), stop)
        for run, left_out in reversed(list(runs(slice(0, adjoint.shape[0]), without)))
        if not left_out
        for stop in range(run.stop, run.start, -STREAMS_PER_SUM)
    ]
    if not blocks:
        return ParameterGradients.zeros(sensitivity)
    first, *others = sorted(
        blocks, key=lambda block: block.start - block.stop
    )  # the longest takes up the sum of the others
    sums = torch.mul(sensitivity.matrices[first], weights[first])
    for block in others:
        sums[: block.stop - block.start].addcmul_(sensitivity.matrices[block], weights[block])
    if starts is not None and starts.first:
        vectors = vectors.index_fill(0, starts.at[0], 0)
    return ParameterGradients(sums.sum(0), torch.einsum("bn,bpn->pn", adjoint, vectors))


def _cache_blocks(sensitivity: Sensitivity) -> list[slice]:
    """Blocks of streams that stay in the last-level cache between two passes over them, and are large enough to hide a call."""
    batch_size = sensitivity.matrices.shape[0]
    streams_per_block = max(1, BLOCK_BYTES * batch_size // sensitivity.matrices.nbytes)
    return [
        slice(start, min(batch_size, start + streams_per_block)) for start in range(0, batch_size, streams_per_block)
    ]


class _SegmentScan(torch.autograd.Function):
    """The scan as one autograd node over ``(inputs, matrices, vectors)``.

    The sensitivities are not autograd inputs: ``out`` is written in forward and ``lam_0 S_0`` added in backward.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        cell: DiagonalCell,
        inputs: Tensor,
        matrices: Tensor,
        vectors: Tensor,
        state: Tensor,
        is_first: Tensor,
        sensitivity: Sensitivity,
        out: Sensitivity,
    ) -> Tensor:
        starts = Starts.of(is_first)
        trajectory = forward_scan(cell, inputs, matrices, vectors, state, starts)
        local = local_derivatives(cell, trajectory, vectors, starts)
        if inputs.shape[0] == 1:
            advance_step(sensitivity, local.at(0), inputs[0], starts, out)
            carried = out  # e_1 S_1 is the whole gradient of a single step: nothing older is kept
        else:
            advance(sensitivity, local, inputs, starts, out)
            carried = sensitivity
        ctx.num_gates, ctx.starts = len(local.gates), starts
        ctx.save_for_backward(*carried, inputs, matrices, local.state, *local.gates, *local.vectors)
        return trajectory.states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, immediate: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        carried_matrices, carried_vectors, inputs, matrices, recurrence, *rest = ctx.saved_tensors
        carried = Sensitivity(carried_matrices, carried_vectors)
        local = LocalDerivatives(recurrence, tuple(rest[: ctx.num_gates]), tuple(rest[ctx.num_gates :]))
        adjoint, adjoint_before = adjoints(immediate, local.state, ctx.starts)
        adjoint_gates = weigh(adjoint, local.gates)
        if inputs.shape[0] == 1:
            gradients = contract(immediate[0], carried)
        else:
            gradients = segment_gradients(adjoint, adjoint_gates, local, inputs)
            for inside, before in zip(gradients, contract(adjoint_before, carried, ctx.starts), strict=True):
                inside.add_(before)
        to_inputs = input_gradients(adjoint_gates, matrices) if ctx.needs_input_grad[1] else None
        return None, to_inputs, *gradients, None, None, None, None


@dataclass(frozen=True, slots=True)
class SegmentRule(ExactRule):
    """Exact RTRL by segments: the sensitivity is read and written once per unroll."""

    name: ClassVar[str] = "segment"
    node: ClassVar[type[torch.autograd.Function]] = _SegmentScan
