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

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.rules.algebra import algebra_of
from rtrl_core.rules.exact import ExactRule
from rtrl_core.rules.one_pass import OnePass, OnePassScan
from rtrl_core.rules.scan import (
    ParameterGradients,
    forward_scan,
    input_gradients,
    local_derivatives,
    matrix_gradients,
    state_gradient,
)
from rtrl_core.rules.starts import Starts
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import apply, in_own_precision


class _SegmentScan(torch.autograd.Function):
    """The scan as one autograd node over ``(inputs, matrices, vectors, state)``.

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
        algebra_of(cell).advance(sensitivity, local, inputs, starts, out)
        # e_1 S_1 is the whole gradient of a single step: nothing older is kept
        carried = out if inputs.shape[0] == 1 else sensitivity
        ctx.cell, ctx.num_gates, ctx.starts = cell, len(local.gates), starts
        ctx.save_for_backward(*carried, inputs, matrices, local.state, *local.gates, *local.vectors)
        return trajectory.states

    @staticmethod
    @in_own_precision
    def backward(ctx: Any, immediate: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        carried_matrices, carried_vectors, inputs, matrices, recurrence, *rest = ctx.saved_tensors
        carried = Sensitivity(carried_matrices, carried_vectors)
        local = LocalDerivatives(recurrence, tuple(rest[: ctx.num_gates]), tuple(rest[ctx.num_gates :]))
        cell, algebra = ctx.cell, algebra_of(ctx.cell)
        immediate = cell.differentiated(immediate)
        adjoint, adjoint_before = algebra.adjoints(immediate, local.state, ctx.starts)
        adjoint_gates = algebra.gate_adjoints(adjoint, local)
        if inputs.shape[0] == 1:
            gradients = algebra.contract(cell, immediate[0], carried, None)
        else:
            gradients = ParameterGradients(
                matrix_gradients(adjoint_gates, inputs), algebra.vector_gradients(adjoint, local)
            )
            past = algebra.contract(cell, adjoint_before, carried, ctx.starts)
            for inside, before in zip(gradients, past, strict=True):
                inside.add_(before)
        to_inputs = input_gradients(adjoint_gates, matrices) if ctx.needs_input_grad[1] else None
        to_state = state_gradient(cell, adjoint_before) if ctx.needs_input_grad[4] else None
        return None, to_inputs, *gradients, to_state, None, None, None


@dataclass(frozen=True, slots=True)
class SegmentRule(ExactRule):
    """Exact RTRL by segments: the sensitivity is read and written once per unroll."""

    name: ClassVar[str] = "segment"
    can_be_recorded: ClassVar[bool] = True
    node: ClassVar[type[torch.autograd.Function]] = _SegmentScan

    def scan_in_one_pass(
        self,
        cell: DiagonalCell,
        inputs: Float[Tensor, "T B D"],
        matrices: Float[Tensor, "K N D"],
        vectors: Float[Tensor, "P N"],
        state: Float[Tensor, "B ... N"],
        is_first: Bool[Tensor, "T B"],
        sensitivity: Sensitivity,
    ) -> tuple[Float[Tensor, "T B ... N"], OnePass]:
        left: list[OnePass] = []
        states = apply(OnePassScan, cell, inputs, matrices, vectors, state, is_first, sensitivity, left)
        return states, left[0]
