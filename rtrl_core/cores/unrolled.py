"""Any differentiable cell under a learning rule: autograd inside the unroll, and one node for what came before it.

    dL/dtheta = backpropagation inside the unroll  +  (dL/ds_0) . S_0

The node hands on the carried state ``s_0`` as it is; in backward it receives ``dL/ds_0`` and lets the rule turn it into the second term.
"""

from typing import Any

import torch

from rtrl_core import carried
from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cells.recurrent import RecurrentCell
from rtrl_core.cores.base import Core, CoreState, check_precision
from rtrl_core.names import look_up, one_of
from rtrl_core.rules import RULES, LearningRule, UnrolledRule
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import apply, in_own_precision


class UnrolledCore(Core):
    """
    Args:
        cell: owned by the core from here on.
        rule: a name in ``RULES``, or a rule of your own; it must be one that fits the cell.

    Raises:
        ValueError: for an unknown rule, or one that does not fit the cell; the message says which of ours do.
    """

    def __init__(self, cell: RecurrentCell, rule: str | LearningRule = "tbptt") -> None:
        super().__init__()
        found = look_up(RULES, rule, "rule")() if isinstance(rule, str) else rule
        if not isinstance(found, UnrolledRule):
            misfit = f"rule {found.name} is for diagonal cells only, which {type(cell).__name__} is not"
            raise ValueError(f"{misfit}: use {_fitting(cell)}")
        if (misfit := found.misfit(cell)) is not None:
            raise ValueError(f"{misfit}: use {_fitting(cell)}")
        self.cell = cell
        self.rule: UnrolledRule[Any] = found
        self.input_size, self.output_size = cell.input_size, cell.output_size

    @property
    def carries_sensitivity(self) -> bool:
        return self.rule.carries_sensitivity

    def initial_state(self, batch_size: int) -> CoreState:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return CoreState(self.cell.zeros(batch_size), self.rule.initial(self.cell, batch_size))

    def stream_norms(self, sensitivity: Any) -> Float[Tensor, " B"] | None:
        return self.rule.stream_norms(sensitivity)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        """Raises ``TypeError`` or ``ValueError`` for an argument of another dtype, shape or device, or a core in half precision."""
        inputs = self._checked("T B", inputs, is_first)
        if not isinstance(state, CoreState):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(
                f"state must be a CoreState, as initial_state(batch_size) gives it, got {type(state).__name__}"
            )
        self._check_streams("state.cell", state.cell, inputs.shape[1])
        self._check_streams("state.sensitivity", state.sensitivity, inputs.shape[1])
        begins = is_first[0]
        before = carried.detached(state.cell)
        with torch.autocast(inputs.device.type, enabled=False):
            # A stream that begins anew has no past: what it carried, finite or not, has no part in anything.
            old = carried.cleared(state.sensitivity, begins)
            now = self._with_credit(before, old)
            outputs: list[Tensor] = []
            for x, first in zip(inputs, is_first, strict=True):
                now = self.cell(x, carried.cleared(now, first))
                outputs.append(self.cell.output(now))
            sensitivity = self.rule.advance(self.cell, inputs.detach(), before, is_first, old)
        return torch.stack(outputs), CoreState(carried.detached(now), carried.detached(sensitivity))

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Any]:
        inputs = self._checked("B", inputs, is_first)
        self._check_streams("cell_state", cell_state, inputs.shape[0])
        with torch.autocast(inputs.device.type, enabled=False):
            cell_state = self.cell(inputs, carried.cleared(cell_state, is_first))
            return self.cell.output(cell_state), cell_state

    def _with_credit(self, state: Any, sensitivity: Any) -> Any:
        if not self.carries_sensitivity:
            return state
        leaves = apply(
            _CarriedState,
            self.rule,
            self.cell,
            sensitivity,
            state,
            list(carried.leaves(state)),
            *self.cell.parameters(),
        )
        return carried.rebuild(state, leaves)

    def _check_streams(self, name: str, part: Any, batch_size: int) -> None:
        """A state of one stream would be broadcast over all of them."""
        device = next(self.cell.parameters()).device
        for tensor in carried.leaves(part):
            expect(name, tensor, "B ...", (batch_size,), None, device)

    def _checked(self, axes: str, inputs: Tensor, is_first: Tensor) -> Tensor:
        check_precision(self.cell.parameters())
        example = next(self.cell.parameters())
        sizes = (None,) * len(axes.split())
        expect("inputs", inputs, f"{axes} D", (*sizes, self.input_size), FLOATING, example.device)
        expect("is_first", is_first, axes, tuple(inputs.shape[:-1]), torch.bool, example.device)
        return inputs.to(example.dtype)


def _fitting(cell: RecurrentCell) -> str:
    """The rules of ours that fit, as one says them."""
    rules: list[UnrolledRule[Any]] = [rule() for rule in RULES.values() if issubclass(rule, UnrolledRule)]
    return f"rule={one_of([rule.name for rule in rules if rule.misfit(cell) is None])}"


class _CarriedState(torch.autograd.Function):
    """Forward: the carried state. Backward: ``lam_0 . S_0`` into the parameters. The sensitivity is data, no autograd input."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, rule: Any, cell: Any, sensitivity: Any, state: Any, tensors: list[Tensor], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        del parameters
        ctx.rule, ctx.cell, ctx.state, ctx.structure = rule, cell, state, sensitivity
        ctx.save_for_backward(*carried.leaves(sensitivity))
        return tuple(tensor.clone() for tensor in tensors)

    @staticmethod
    @in_own_precision
    def backward(ctx: Any, *adjoint: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        sensitivity = carried.rebuild(ctx.structure, ctx.saved_tensors)
        gradients = ctx.rule.credit(ctx.cell, carried.rebuild(ctx.state, adjoint), sensitivity)
        return None, None, None, None, None, *gradients
