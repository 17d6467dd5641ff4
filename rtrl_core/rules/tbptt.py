"""Truncated backpropagation through time: the segment rule without its carried sensitivity. The paper's baseline."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rtrl_core.cells.base import DiagonalCell
from rtrl_core.rules.algebra import algebra_of
from rtrl_core.rules.base import DiagonalRule, UnrolledRule
from rtrl_core.rules.scan import (
    Trajectory,
    forward_scan,
    input_gradients,
    local_derivatives,
    matrix_gradients,
    state_gradient,
)
from rtrl_core.rules.starts import Starts
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import apply, in_own_precision


@dataclass(frozen=True, slots=True)
class TruncatedRule(DiagonalRule[None], UnrolledRule[None]):
    """Every gradient ends at the start of the unroll. Carries nothing, so it fits every cell."""

    name: ClassVar[str] = "tbptt"
    carries_sensitivity: ClassVar[bool] = False
    can_be_recorded: ClassVar[bool] = True

    def zeros(
        self, cell: DiagonalCell, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"], batch_size: int
    ) -> None:
        return None

    def initial(self, cell: Any, batch_size: int) -> None:
        return None

    def scan(
        self,
        cell: DiagonalCell,
        inputs: Float[Tensor, "T B D"],
        matrices: Float[Tensor, "K N D"],
        vectors: Float[Tensor, "P N"],
        state: Float[Tensor, "B ... N"],
        is_first: Bool[Tensor, "T B"],
        sensitivity: None = None,
        out: None = None,
    ) -> tuple[Float[Tensor, "T B ... N"], None]:
        return apply(_TruncatedScan, cell, inputs, matrices, vectors, state, is_first), None

    def advance(
        self, cell: Any, inputs: Float[Tensor, "T B D"], state: Any, is_first: Bool[Tensor, "T B"], sensitivity: None
    ) -> None:
        return None

    def credit(self, cell: Any, adjoint: Any, sensitivity: None) -> tuple[None, ...]:
        return (None,) * len(list(cell.parameters()))


class _TruncatedScan(torch.autograd.Function):
    """The same scan and adjoints as the segment rule; derivatives are computed only if backward is called."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, cell: DiagonalCell, inputs: Tensor, matrices: Tensor, vectors: Tensor, state: Tensor, is_first: Tensor
    ) -> Tensor:
        starts = Starts.of(is_first)
        trajectory = forward_scan(cell, inputs, matrices, vectors, state, starts)
        ctx.cell, ctx.starts = cell, starts
        ctx.save_for_backward(inputs, matrices, vectors, *trajectory)
        return trajectory.states

    @staticmethod
    @in_own_precision
    def backward(ctx: Any, immediate: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, matrices, vectors, *trajectory = ctx.saved_tensors
        local = local_derivatives(ctx.cell, Trajectory(*trajectory), vectors, ctx.starts)
        algebra = algebra_of(ctx.cell)
        adjoint, adjoint_before = algebra.adjoints(ctx.cell.differentiated(immediate), local.state, ctx.starts)
        adjoint_gates = algebra.gate_adjoints(adjoint, local)
        by_vectors = algebra.vector_gradients(adjoint, local)
        to_inputs = input_gradients(adjoint_gates, matrices) if ctx.needs_input_grad[1] else None
        to_state = state_gradient(ctx.cell, adjoint_before) if ctx.needs_input_grad[4] else None
        return None, to_inputs, matrix_gradients(adjoint_gates, inputs), by_vectors, to_state, None
