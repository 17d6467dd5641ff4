"""Exact RTRL at the price of truncated BPTT: the segment identity (DESIGN.md section 4).

Inside an unroll that starts from ``(c_0, S_0)``, with the ordinary adjoint ``lam_t = e_t + a_{t+1} lam_{t+1}``::

    dL/dW_k = sum_{t,b} (lam_t g_{k,t}) x_t^T  +  sum_b lam_0 S_0^{W_k}
    S_T     = (prod_t a_t) S_0  +  sum_t (prod_{s>t} a_s g_{k,t}) x_t^T

Equal, number for number, to the step-by-step recursion, but the sensitivity is touched once per unroll instead of once per
step. Without ``lam_0 S_0`` the first line is truncated BPTT (``tbptt.py``).
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
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
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor


def scan(
    cell: DiagonalCell,
    inputs: Float[Tensor, "T B D"],
    matrices: Float[Tensor, "K N D"],
    vectors: Float[Tensor, "P N"],
    state: Float[Tensor, "B N"],
    is_first: Bool[Tensor, "T B"],
    sensitivity: Sensitivity,
    out: Sensitivity | None = None,
) -> tuple[Float[Tensor, "T B N"], Sensitivity]:
    """Runs the cell over an unroll; backward through the returned states leaves the untruncated gradient in the parameters.

    Returns the states ``c_1..c_T`` and the advanced sensitivity, which is outside autograd. ``out`` receives the advanced
    sensitivity if given; it must not overlap ``sensitivity``, which backward still reads (autograd reports a violation),
    except for ``T = 1``, where advancing in place is allowed. The gradient of ``inputs`` is truncated at the start of the
    unroll, as in the paper.
    """
    advanced = sensitivity.empty_like() if out is None else out
    return _SegmentScan.apply(cell, inputs, matrices, vectors, state, is_first, sensitivity, advanced), advanced


def advance(
    sensitivity: Sensitivity, local: LocalDerivatives, inputs: Float[Tensor, "T B D"], out: Sensitivity
) -> None:
    """``S_T`` from ``S_0`` into ``out``: one read and one write of the state, and one GEMM per stream.

    Stream by stream, because one stream's sensitivity fits the cache: decaying it and adding to it then cost one trip to memory.
    """
    after, total = decays(local.state)
    per_stream = weigh(after.transpose(0, 1), [gate.transpose(0, 1) for gate in local.gates]).flatten(2)
    for b, stream_inputs in enumerate(inputs.transpose(0, 1).contiguous()):
        torch.mul(sensitivity.matrices[b], total[b, :, None], out=out.matrices[b])
        out.matrices[b].flatten(0, 1).addmm_(per_stream[b].t(), stream_inputs)
    torch.mul(sensitivity.vectors, total[:, None], out=out.vectors)
    for p, vector in enumerate(local.vectors):
        out.vectors[:, p] += sum_of_products(after, vector)


def advance_step(
    sensitivity: Sensitivity, local: LocalDerivatives, inputs: Float[Tensor, "B D"], out: Sensitivity
) -> None:
    """``S_t = a_t S_{t-1} + g_t x_t^T`` into ``out`` (which may be ``sensitivity``): online RTRL, the fused form of T=1.

    ``local`` holds one step, each tensor ``[B, N]``.
    """
    gates = torch.stack(local.gates, dim=1).unsqueeze(-1)
    recurrence = local.state[:, None, :, None]
    for block in _cache_blocks(sensitivity):
        torch.mul(sensitivity.matrices[block], recurrence[block], out=out.matrices[block])
        out.matrices[block].addcmul_(gates[block], inputs[block, None, None])
    torch.mul(sensitivity.vectors, local.state[:, None], out=out.vectors)
    out.vectors.add_(torch.stack(local.vectors, dim=1))


def contract(adjoint: Float[Tensor, "B N"], sensitivity: Sensitivity, into: ParameterGradients) -> None:
    """``into += sum_b lam_b S_b``: what the past contributes to the gradient, one read of the state."""
    for b in range(adjoint.shape[0]):
        into.matrices.addcmul_(sensitivity.matrices[b], adjoint[b, :, None])
    into.vectors.add_(torch.einsum("bn,bpn->pn", adjoint, sensitivity.vectors))


def _cache_blocks(sensitivity: Sensitivity) -> list[slice]:
    """Slices of streams of about two megabytes: small enough to stay in cache, large enough to hide the cost of a call."""
    batch_size = sensitivity.matrices.shape[0]
    streams_per_block = max(1, (1 << 21) * batch_size // sensitivity.matrices.nbytes)
    return [slice(start, start + streams_per_block) for start in range(0, batch_size, streams_per_block)]


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
        trajectory = forward_scan(cell, inputs, matrices, vectors, state, is_first)
        local = local_derivatives(cell, trajectory, vectors, is_first)
        if inputs.shape[0] == 1:
            advance_step(sensitivity, local.at(0), inputs[0], out)
            carried = out  # e_1 S_1 is the whole gradient of a single step: nothing older is kept
        else:
            advance(sensitivity, local, inputs, out)
            carried = sensitivity
        ctx.num_gates = len(local.gates)
        ctx.save_for_backward(*carried, inputs, matrices, local.state, *local.gates, *local.vectors)
        return trajectory.states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, immediate: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        carried_matrices, carried_vectors, inputs, matrices, recurrence, *rest = ctx.saved_tensors
        carried = Sensitivity(carried_matrices, carried_vectors)
        local = LocalDerivatives(recurrence, tuple(rest[: ctx.num_gates]), tuple(rest[ctx.num_gates :]))
        adjoint, adjoint_before = adjoints(immediate, local.state)
        adjoint_gates = weigh(adjoint, local.gates)
        if inputs.shape[0] == 1:
            gradients = ParameterGradients.zeros(carried)
            contract(immediate[0], carried, gradients)
        else:
            gradients = segment_gradients(adjoint, adjoint_gates, local, inputs)
            contract(adjoint_before, carried, gradients)
        to_inputs = input_gradients(adjoint_gates, matrices) if ctx.needs_input_grad[1] else None
        return None, to_inputs, *gradients, None, None, None, None
