"""The pieces every learning rule shares: the forward recurrence, the adjoint recurrence, and parameter gradients from them.

All functions are pure tensor algebra outside autograd; the autograd nodes that call them are in ``segment.py`` and ``reference.py``.
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


class Trajectory(NamedTuple):
    """What the forward recurrence leaves behind."""

    gates: Float[Tensor, "T B K N"]
    """Gate inputs ``u = W x``."""
    previous: Float[Tensor, "T B N"]
    """``c_{t-1}`` as the cell saw it: zero at first steps."""
    states: Float[Tensor, "T B N"]
    """``c_t``."""


class ParameterGradients(NamedTuple):
    matrices: Float[Tensor, "K N D"]
    vectors: Float[Tensor, "P N"]

    @classmethod
    def zeros(cls, sensitivity: Sensitivity) -> "ParameterGradients":
        """Zeros of the shapes of the parameters that ``sensitivity`` differentiates by."""
        return cls(torch.zeros_like(sensitivity.matrices[0]), torch.zeros_like(sensitivity.vectors[0]))


def forward_scan(
    cell: DiagonalCell,
    inputs: Float[Tensor, "T B D"],
    matrices: Float[Tensor, "K N D"],
    vectors: Float[Tensor, "P N"],
    state: Float[Tensor, "B N"],
    starts: Starts,
) -> Trajectory:
    """Runs the cell over an unroll: one GEMM for all gate inputs, then ``T`` element-wise steps."""
    num_gates, num_units, _ = matrices.shape
    gates = (inputs.flatten(0, 1) @ matrices.flatten(0, 1).t()).view(*inputs.shape[:2], num_gates, num_units)
    previous = gates.new_empty(*inputs.shape[:2], num_units)
    states = torch.empty_like(previous)
    for t in range(inputs.shape[0]):
        previous[t] = state
        if t in starts.at:
            previous[t].index_fill_(0, starts.at[t], 0)
        states[t] = cell.forward(previous[t], gates[t], vectors)
        state = states[t]
    return Trajectory(gates, previous, states)


def local_derivatives(
    cell: DiagonalCell, trajectory: Trajectory, vectors: Float[Tensor, "P N"], starts: Starts
) -> LocalDerivatives:
    """``a, g, q`` at every step at once; ``a`` is zero at first steps, so whatever it multiplies forgets the last episode."""
    local = cell.derivatives(trajectory.previous, trajectory.gates, vectors)
    if not starts.at:
        return local
    forgetting = local.state.flatten(0, 1).index_fill(0, starts.rows, 0)
    return local._replace(state=forgetting.view_as(local.state))


def adjoints(
    immediate: Float[Tensor, "T B N"], recurrence: Float[Tensor, "T B N"], starts: Starts
) -> tuple[Tensor, Tensor]:
    """``lam_t = e_t + a_{t+1} lam_{t+1}`` and ``lam_0 = a_1 lam_1``; returns ``(lam [T B N], lam_0 [B N])``.

    Nothing crosses a start: before one, ``lam_t = e_t`` whatever comes after.
    """
    adjoint = torch.empty_like(immediate)
    adjoint[-1] = immediate[-1]
    negligible = _negligible(immediate)
    for t in range(immediate.shape[0] - 2, -1, -1):
        torch.addcmul(immediate[t], recurrence[t + 1], adjoint[t + 1], out=adjoint[t])
        if t + 1 in starts.at:
            torch.where(starts.mask[t + 1], immediate[t], adjoint[t], out=adjoint[t])
        if negligible is not None and t % FLUSH_EVERY == 0:
            _flush_below(negligible, adjoint[t])
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
            _flush(after[t])
    return after, _flush(after[0] * recurrence[0])


def _flush(value: Tensor) -> Tensor:
    """Sets what is below the root of the smallest normal number to zero, in place. Products of many factors below one end up
    there (1e-19 in float32); multiplied once more they would be subnormal, which a CPU computes tens of times slower."""
    return torch.hardshrink(value, math.sqrt(torch.finfo(value.dtype).tiny), out=value)


def _negligible(immediate: Float[Tensor, "T B N"]) -> Float[Tensor, "B N"] | None:
    """Below what to do the same with adjoints, whose size is that of the loss: relative to the largest immediate gradient of the
    stream and unit. ``None`` where subnormal numbers cost nothing: on other devices than a CPU, and in a single step."""
    if immediate.device.type != "cpu" or immediate.shape[0] == 1:
        return None
    largest = torch.maximum(immediate.amax(0), immediate.amin(0).neg_())
    tiny = torch.finfo(largest.dtype).tiny
    return largest.mul_(math.sqrt(tiny)).nan_to_num_(nan=0.0, posinf=0.0).clamp_(min=tiny)


def _flush_below(negligible: Float[Tensor, "B N"], value: Float[Tensor, "B N"]) -> None:
    """Sets what is below ``negligible`` to zero, in place, and leaves what is not finite."""
    size = value.abs()
    value.mul_(torch.ge(size, negligible, out=size))


def weigh(weights: Float[Tensor, "*batch N"], gates: Sequence[Tensor]) -> Float[Tensor, "*batch K N"]:
    """``weights * g_k`` for every gate, in one contiguous block ready for a GEMM."""
    weighed = weights.new_empty(*weights.shape[:-1], len(gates), weights.shape[-1])
    for k, gate in enumerate(gates):
        torch.mul(weights, gate, out=weighed[..., k, :])
    return weighed


def segment_gradients(
    adjoint: Float[Tensor, "T B N"],
    adjoint_gates: Float[Tensor, "T B K N"],
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
) -> ParameterGradients:
    """The gradient that backpropagation inside the unroll gives: ``sum_{t,b} (lam_t g_{k,t}) x_t^T``, one GEMM."""
    matrices = (adjoint_gates.flatten(0, 1).flatten(1).t() @ inputs.flatten(0, 1)).view(
        *adjoint_gates.shape[2:], inputs.shape[-1]
    )
    vectors = torch.stack([sum_of_products(adjoint, vector) for vector in local.vectors])
    return ParameterGradients(matrices, vectors.sum(1))


def sum_of_products(
    left: Float[Tensor, "T B N"], right: Float[Tensor, "T B N"], starts: Starts | None = None
) -> Float[Tensor, "B N"]:
    """``sum_t left_t right_t``, a few steps at a time: the products of all steps would not fit the cache, one by one is many calls.

    With ``starts``, only from the last start of each stream on.
    """
    at_once = max(1, min(left.shape[0], (1 << 18) // left[0].numel()))
    products = left.new_empty(at_once, *left.shape[1:])
    total = left.new_zeros(left.shape[1:])
    for start in range(0, left.shape[0], at_once):
        rows = slice(start, start + at_once)
        part = torch.mul(left[rows], right[rows], out=products[: min(at_once, left.shape[0] - start)])
        if starts is not None:
            starts.forget_older_(part, start)
        total += part.sum(0)
    return total


def input_gradients(
    adjoint_gates: Float[Tensor, "T B K N"], matrices: Float[Tensor, "K N D"]
) -> Float[Tensor, "T B D"]:
    """``dL/dx_t = sum_k W_k^T (lam_t g_{k,t})``: what the encoder below the core receives."""
    flat = adjoint_gates.flatten(2).flatten(0, 1) @ matrices.flatten(0, 1)
    return flat.view(*adjoint_gates.shape[:2], matrices.shape[-1])
