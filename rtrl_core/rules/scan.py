"""The pieces every learning rule for diagonal cells shares: the forward recurrence, and sums over the steps of an unroll.

All functions are pure tensor algebra outside autograd; the autograd nodes that call them are in the modules of the rules. What differs
between one number of state per unit and several is in ``single.py`` and ``blocks.py``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.rules.starts import Starts
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Float, Tensor

FLUSH_EVERY = 4
"""Steps between two looks for numbers that have become too small."""
BLOCK_BYTES = 8 << 20
SUM_NUMBERS = 1 << 19
"""Products that are kept to be added up."""


class Trajectory(NamedTuple):
    """What the forward recurrence leaves behind."""

    gates: Float[Tensor, "T B K N"]
    """Gate inputs ``u = W x``."""
    previous: Float[Tensor, "T B ... N"]
    """``c_{t-1}`` as the cell saw it: zero at first steps."""
    states: Float[Tensor, "T B ... N"]
    """``c_t``."""


class ParameterGradients(NamedTuple):
    matrices: Float[Tensor, "K N D"]
    vectors: Float[Tensor, "P N"]

    @classmethod
    def zeros(cls, sensitivity: Sensitivity) -> "ParameterGradients":
        """Zeros of the shapes of what ``sensitivity`` carries of a stream."""
        return cls(torch.zeros_like(sensitivity.matrices[0]), torch.zeros_like(sensitivity.vectors[0]))


def forward_scan(
    cell: DiagonalCell,
    inputs: Float[Tensor, "T B D"],
    matrices: Float[Tensor, "K N D"],
    vectors: Float[Tensor, "P N"],
    state: Float[Tensor, "B ... N"],
    starts: Starts,
) -> Trajectory:
    """Runs the cell over an unroll: one GEMM for all gate inputs, then ``T`` element-wise steps."""
    num_gates, num_units, _ = matrices.shape
    gates = (inputs.flatten(0, 1) @ matrices.flatten(0, 1).t()).view(*inputs.shape[:2], num_gates, num_units)
    previous = gates.new_empty(inputs.shape[0], *state.shape)
    states = torch.empty_like(previous)
    for t in range(inputs.shape[0]):
        previous[t] = state
        if starts.may_begin_at(t):
            starts.clear_at_(previous[t], t)
        states[t] = cell.forward(previous[t], gates[t], vectors)
        state = states[t]
    return Trajectory(gates, previous, states)


def local_derivatives(
    cell: DiagonalCell, trajectory: Trajectory, vectors: Float[Tensor, "P N"], starts: Starts
) -> LocalDerivatives:
    """``a, g, q`` at every step at once; ``a`` is zero at first steps, so whatever it multiplies forgets the last episode."""
    local = cell.derivatives(trajectory.previous, trajectory.gates, vectors)
    return local._replace(state=starts.cleared_rows(local.state))


def flush(value: Tensor) -> Tensor:
    """Sets what is below the root of the smallest normal number to zero, in place. Products of many factors below one end up
    there (1e-19 in float32); multiplied once more they would be subnormal, which a CPU computes tens of times slower."""
    return torch.hardshrink(value, math.sqrt(torch.finfo(value.dtype).tiny), out=value)


def negligible(immediate: Float[Tensor, "T B ... N"]) -> Float[Tensor, "B ... N"] | None:
    """Below what to do the same with adjoints, whose size is that of the loss: relative to the largest immediate gradient of the
    stream and unit. ``None`` where subnormal numbers cost nothing: on other devices than a CPU, and in a single step."""
    if immediate.device.type != "cpu" or immediate.shape[0] == 1:
        return None
    largest = torch.maximum(immediate.amax(0), immediate.amin(0).neg_())
    tiny = torch.finfo(largest.dtype).tiny
    return largest.mul_(math.sqrt(tiny)).nan_to_num_(nan=0.0, posinf=0.0).clamp_(min=tiny)


def flush_below(negligible: Float[Tensor, "B ... N"], value: Float[Tensor, "B ... N"]) -> None:
    """Sets what is below ``negligible`` to zero, in place, and leaves what is not finite."""
    size = value.abs()
    value.mul_(torch.ge(size, negligible, out=size))


def sums_of_products(
    left: Float[Tensor, "T B ... N"], rights: Sequence[Tensor], starts: Starts | None = None
) -> list[Float[Tensor, "B ... N"]]:
    """``sum_t left_t right_t`` for each of ``rights``, in memory for the products that they share: some steps at a time, where those of
    all would not fit the cache.

    With ``starts``, only from the last start of each stream on.
    """
    at_once = max(1, min(left.shape[0], SUM_NUMBERS // left[0].numel() if left.device.type == "cpu" else len(left)))
    products = left.new_empty(at_once, *left.shape[1:])
    totals: list[Tensor] = []
    for right in rights:
        total: Tensor | None = None
        for start in range(0, left.shape[0], at_once):
            rows = slice(start, start + at_once)
            part = torch.mul(left[rows], right[rows], out=products[: min(at_once, left.shape[0] - start)])
            if starts is not None:
                starts.forget_older_(part, start)
            total = part.sum(0) if total is None else total.add_(part.sum(0))
        assert total is not None
        totals.append(total)
    return totals


def sum_of_products(
    left: Float[Tensor, "T B ... N"], right: Float[Tensor, "T B ... N"], starts: Starts | None = None
) -> Float[Tensor, "B ... N"]:
    """``sums_of_products`` of one."""
    return sums_of_products(left, [right], starts)[0]


def matrix_gradients(adjoint_gates: Float[Tensor, "T B K N"], inputs: Float[Tensor, "T B D"]) -> Float[Tensor, "K N D"]:
    """``sum_{t,b} (lam_t g_{k,t}) x_t^T``, the gradient that backpropagation inside the unroll gives: one GEMM."""
    flat = adjoint_gates.flatten(0, 1).flatten(1).t() @ inputs.flatten(0, 1)
    return flat.view(*adjoint_gates.shape[2:], inputs.shape[-1])


def input_gradients(
    adjoint_gates: Float[Tensor, "T B K N"], matrices: Float[Tensor, "K N D"]
) -> Float[Tensor, "T B D"]:
    """``dL/dx_t = sum_k W_k^T (lam_t g_{k,t})``: what the encoder below the core receives."""
    flat = adjoint_gates.flatten(2).flatten(0, 1) @ matrices.flatten(0, 1)
    return flat.view(*adjoint_gates.shape[:2], matrices.shape[-1])


def state_gradient(cell: DiagonalCell, adjoint: Float[Tensor, "B ... N"]) -> Float[Tensor, "B ... N"]:
    """``lam_0`` in the shape of the state: of scales it is zero."""
    if not cell.num_scales:
        return adjoint
    return torch.cat([adjoint, adjoint.new_zeros(len(adjoint), cell.num_scales, adjoint.shape[-1])], dim=1)


def cache_blocks(
    batch_size: int, stream_bytes: int, block_bytes: int | None = None, *, device: torch.device
) -> list[slice]:
    """Blocks of streams that stay in the last-level cache between two passes over them, and are large enough to hide a call.

    All streams at once on other devices than a CPU, whose memory is fast and whose calls are dear.
    """
    if device.type != "cpu":
        return [slice(0, batch_size)]
    block_bytes = BLOCK_BYTES if block_bytes is None else block_bytes
    streams_per_block = min(batch_size, max(1, block_bytes // max(1, stream_bytes)))
    return [
        slice(start, min(batch_size, start + streams_per_block)) for start in range(0, batch_size, streams_per_block)
    ]
