"""The segment identity with one look at the sensitivity: the backward pass reads ``S_0``, uses it, and leaves ``S_T`` in its place.

Forward advances nothing. Backward knows ``lam_0``, and adds ``lam_0 S_0`` to the gradient while it writes ``S_T`` over ``S_0``: one
read and one write, and no memory beside the sensitivity itself. What it costs is that there is one backward pass.
"""

from typing import Any

import torch

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.recording import is_recording
from rtrl_core.rules.algebra import algebra_of
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
from rtrl_core.shapes import Tensor
from rtrl_core.untyped import in_own_precision

LARGEST = 1e15
"""Number of a gradient or of ``lam_0`` beyond which their sum with a sensitivity that is itself large (1e18) may not be finite."""
SECOND_BACKWARD = (
    "the sensitivity that this unroll started from has been advanced in place, by a backward pass or because the next unroll came "
    "first: a core that was told advance_in_backward() has one backward pass per unroll, before the next; for more, do not call it, "
    "and forward keeps what they need"
)


class OnePass:
    """What an unroll has still to do to the sensitivity that it started from. It does not keep that alive."""

    def __init__(self, cell: DiagonalCell, local: LocalDerivatives, inputs: Tensor, starts: Starts) -> None:
        self._cell = cell
        self._work: tuple[LocalDerivatives, Tensor, Starts] | None = (local, inputs, starts)
        self._version = inputs._version

    @property
    def is_over(self) -> bool:
        """Whether the sensitivity is that of the end of the unroll."""
        return self._work is None

    @property
    def work(self) -> tuple[LocalDerivatives, Tensor, Starts]:
        """Raises ``RuntimeError`` if it has been done."""
        if self._work is None:
            raise RuntimeError(SECOND_BACKWARD)
        return self._work

    def credit(self, sensitivity: Sensitivity, adjoint: Tensor, is_sound: bool) -> ParameterGradients:
        """``lam_0 S_0``, for the one backward pass; the sensitivity is advanced, unless the gradient is of no use anyway: then it is
        left as it is, so that the streams can be looked at one by one, and ``finish`` advances it."""
        local, inputs, starts = self.work
        algebra = algebra_of(self._cell)
        if not is_sound:
            return algebra.contract(self._cell, adjoint, sensitivity, starts)
        self._work = None
        return algebra.contract_and_advance(self._cell, adjoint, sensitivity, local, inputs, starts)

    def credit_of_step(self, sensitivity: Sensitivity, immediate: Tensor) -> ParameterGradients:
        """``e_1 S_1``, the whole gradient of an unroll of one step; the sensitivity is advanced."""
        local, inputs, starts = self.work
        self._work = None
        return algebra_of(self._cell).advance_and_contract(self._cell, immediate, sensitivity, local, inputs, starts)

    def finish(self, sensitivity: Sensitivity) -> None:
        """Advances the sensitivity if no backward pass has.

        Raises:
            RuntimeError: if the inputs of the unroll have been overwritten in the meantime.
        """
        if self._work is None:
            return
        local, inputs, starts = self._work
        if inputs._version != self._version:
            raise RuntimeError(
                "the inputs of an unroll were changed in place before its sensitivity was advanced: run its backward pass, or call "
                "settle(), before they are used for something else"
            )
        self._work = None
        algebra_of(self._cell).advance(sensitivity, local, inputs, starts, sensitivity)


class OnePassScan(torch.autograd.Function):
    """The scan as one autograd node over ``(inputs, matrices, vectors, state)``; see ``SegmentRule.scan_in_one_pass``."""

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
        left: list[OnePass],
    ) -> Tensor:
        starts = Starts.of(is_first)
        trajectory = forward_scan(cell, inputs, matrices, vectors, state, starts)
        local = local_derivatives(cell, trajectory, vectors, starts)
        ctx.left, ctx.cell, ctx.sensitivity = OnePass(cell, local, inputs.detach(), starts), cell, sensitivity
        left.append(ctx.left)
        ctx.save_for_backward(inputs, matrices)
        return trajectory.states

    @staticmethod
    @in_own_precision
    def backward(ctx: Any, immediate: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, matrices = ctx.saved_tensors
        left: OnePass = ctx.left
        local, _, starts = left.work
        algebra = algebra_of(ctx.cell)
        immediate = ctx.cell.differentiated(immediate)
        adjoint, adjoint_before = algebra.adjoints(immediate, local.state, starts)
        adjoint_gates = algebra.gate_adjoints(adjoint, local)
        if len(inputs) == 1 and not is_recording() and _is_sound(immediate, adjoint_gates):
            gradients = left.credit_of_step(ctx.sensitivity, immediate[0])
        else:
            gradients = ParameterGradients(
                matrix_gradients(adjoint_gates, inputs), algebra.vector_gradients(adjoint, local)
            )
            # The host cannot look inside a recording: there the sensitivity is left to ``settle``.
            is_sound = not is_recording() and _is_sound(*gradients, adjoint_before)
            past = left.credit(ctx.sensitivity, adjoint_before, is_sound)
            for inside, before in zip(gradients, past, strict=True):
                inside.add_(before)
        to_inputs = input_gradients(adjoint_gates, matrices) if ctx.needs_input_grad[1] else None
        to_state = state_gradient(ctx.cell, adjoint_before) if ctx.needs_input_grad[4] else None
        return None, to_inputs, *gradients, to_state, None, None, None


def _is_sound(*tensors: Tensor) -> bool:
    """Looks at numbers that are few beside those of the sensitivity; none at all are sound."""
    largest = torch.stack([tensor.abs().amax() for tensor in tensors if tensor.numel()])
    return bool((largest <= LARGEST).all())
