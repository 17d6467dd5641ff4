"""RTRL step by step, as the paper writes it (its equations 8-12). Slow and obvious: the oracle for every other rule.

S^{W_k}_t = a_t S^{W_k}_{t-1} + g_{k,t} x_t^T        S^p_t = a_t S^p_{t-1} + q_{p,t}
dL/dW_k   = sum_t sum_b e_t S^{W_k}_t                dL/dp = sum_t sum_b e_t S^p_t
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.rules.algebra import algebra_of
from rtrl_core.rules.exact import ExactRule
from rtrl_core.rules.scan import (
    ParameterGradients,
    Trajectory,
    forward_scan,
    input_gradients,
    local_derivatives,
    state_gradient,
)
from rtrl_core.rules.starts import Starts
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import in_own_precision


def gradients(
    cell: DiagonalCell,
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    is_first: Bool[Tensor, "T B"],
    immediate: Float[Tensor, "T B ... N"],
) -> tuple[ParameterGradients, Sensitivity]:
    """The recursion over an unroll, collecting ``e_t S_t`` on the way: the whole algorithm in one loop."""
    algebra, total = algebra_of(cell), None
    for t in range(inputs.shape[0]):
        sensitivity = algebra.step(sensitivity, local.at(t), inputs[t], is_first[t])
        now = algebra.contract(cell, immediate[t], sensitivity, None)
        total = now if total is None else ParameterGradients(*(a + b for a, b in zip(total, now, strict=True)))
    assert total is not None, "an unroll has at least one step"
    return total, sensitivity


class _ReferenceScan(torch.autograd.Function):
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
        ctx.cell, ctx.starts = cell, starts
        # Backward begins at S_0 again: where the advanced sensitivity is about to take its place, a copy is kept.
        old = (
            [part.clone() for part in sensitivity]
            if out.matrices.data_ptr() == sensitivity.matrices.data_ptr()
            else sensitivity
        )
        ctx.save_for_backward(*old, inputs, matrices, vectors, is_first, *trajectory)
        algebra = algebra_of(cell)
        for t in range(inputs.shape[0]):
            sensitivity = algebra.step(sensitivity, local.at(t), inputs[t], is_first[t])
        for target, source in zip(out, sensitivity, strict=True):
            target.copy_(source)
        return trajectory.states

    @staticmethod
    @in_own_precision
    def backward(ctx: Any, immediate: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        old_matrices, old_vectors, inputs, matrices, vectors, is_first, *trajectory = ctx.saved_tensors
        local = local_derivatives(ctx.cell, Trajectory(*trajectory), vectors, ctx.starts)
        immediate = ctx.cell.differentiated(immediate)
        total, _ = gradients(ctx.cell, Sensitivity(old_matrices, old_vectors), local, inputs, is_first, immediate)
        algebra = algebra_of(ctx.cell)
        adjoint, adjoint_before = algebra.adjoints(immediate, local.state, ctx.starts)
        to_inputs = (
            input_gradients(algebra.gate_adjoints(adjoint, local), matrices) if ctx.needs_input_grad[1] else None
        )
        to_state = state_gradient(ctx.cell, adjoint_before) if ctx.needs_input_grad[4] else None
        return None, to_inputs, *total, to_state, None, None, None


@dataclass(frozen=True, slots=True)
class ReferenceRule(ExactRule):
    """Exact RTRL step by step: forward and backward each repeat the recursion over all ``T`` steps."""

    name: ClassVar[str] = "reference"
    node: ClassVar[type[torch.autograd.Function]] = _ReferenceScan
