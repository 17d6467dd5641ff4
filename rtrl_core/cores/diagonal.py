"""A diagonal cell with its parameters and a learning rule, fused: the fast path of every cell that is element-wise."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from rtrl_core import carried
from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cells import CELLS, DiagonalCell
from rtrl_core.cores.base import Core, CoreState, check_precision
from rtrl_core.names import look_up, one_of
from rtrl_core.rules import RULES, DiagonalRule, LearningRule
from rtrl_core.rules.one_pass import OnePass
from rtrl_core.shapes import Bool, Float, Tensor


class DiagonalCore(Core):
    """Its outputs are what the cell shows of its states: of most cells the states themselves.

    Args:
        input_size: D.
        num_units: N.
        cell: a name in ``CELLS``, or a cell of your own.
        rule: a name in ``RULES``, or a rule of your own. It changes gradients, never outputs.

    Raises:
        ValueError: for an unknown cell or rule, a rule that is not for diagonal cells, or a size below 1.
    """

    def __init__(
        self,
        input_size: int,
        num_units: int,
        cell: str | DiagonalCell = "elstm",
        rule: str | LearningRule = "segment",
    ) -> None:
        super().__init__()
        if input_size < 1 or num_units < 1:
            raise ValueError(f"input_size and num_units must be at least 1, got {input_size} and {num_units}")
        self.cell = look_up(CELLS, cell, "cell")() if isinstance(cell, str) else cell
        found = look_up(RULES, rule, "rule")() if isinstance(rule, str) else rule
        if not isinstance(found, DiagonalRule):
            fitting = one_of([name for name, ours in RULES.items() if issubclass(ours, DiagonalRule)])
            raise ValueError(
                f"rule {found.name} is not for diagonal cells such as {type(self.cell).__name__}: use rule={fitting}"
            )
        self.rule: DiagonalRule[Any] = found
        self.input_size = input_size
        self.num_units = num_units
        self.output_size = self.cell.outputs_per_unit * num_units
        self.matrices = nn.Parameter(torch.empty(len(self.cell.gate_names), num_units, input_size))
        self.vectors = nn.Parameter(torch.empty(len(self.cell.vector_names), num_units))
        self.cell.initialise(self.matrices, self.vectors)
        self._in_one_pass = False
        self._unfinished: MutableMapping[Tensor, OnePass] = WeakIdKeyDictionary()
        """Unrolls that are to advance a sensitivity in place and have not yet, by a tensor of it."""
        self._parts: list[tuple[str, str, tuple[int, ...]]] | None = None

    @property
    def carries_sensitivity(self) -> bool:
        return self.rule.carries_sensitivity

    @property
    def can_be_recorded(self) -> bool:
        return self.rule.can_be_recorded and (self._in_one_pass or not self.carries_sensitivity)

    def initial_state(self, batch_size: int) -> CoreState:
        """Zero state and, under an RTRL rule, zero sensitivity, on the device of the parameters."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        cell = self.matrices.new_zeros(batch_size, *self.cell.state_shape(self.num_units))
        return CoreState(cell, self.rule.zeros(self.cell, self.matrices.detach(), self.vectors.detach(), batch_size))

    def stream_norms(self, sensitivity: Any) -> Float[Tensor, " B"] | None:
        return self.rule.stream_norms(sensitivity)

    def advance_in_backward(self) -> None:
        self._in_one_pass = True

    def advance_in_forward(self) -> None:
        self._in_one_pass = False

    def settle(self, state: CoreState) -> None:
        for tensor in carried.leaves(state.sensitivity):
            if tensor in self._unfinished:
                self._unfinished.pop(tensor).finish(state.sensitivity)

    def abandon(self, state: CoreState) -> None:
        for tensor in carried.leaves(state.sensitivity):
            self._unfinished.pop(tensor, None)

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        waiting = [tensor for tensor in carried.leaves(after.sensitivity) if tensor in self._unfinished]
        return any(not self._unfinished[tensor].is_over for tensor in waiting) or super().can_repeat(before, after)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        """Runs an unroll. Returns what is read of the cell states (under autograd) and the state to carry on with (detached).

        Raises:
            TypeError, ValueError: for an argument of another dtype, shape or device, a state that requires a gradient, or a core in
                half precision.
        """
        self._check_unroll(inputs, state, is_first)
        if state.cell.requires_grad:
            raise ValueError(
                "state.cell must not require a gradient: that of an initial state would end at the first unroll; detach it"
            )
        return self.from_state(inputs, state, is_first)

    def from_state(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        """``forward`` without its checks, for whoever has a use for the gradient of ``state.cell``: it is ``lam_0``."""
        self.settle(state)
        if self._in_one_pass and torch.is_grad_enabled():
            with torch.autocast(inputs.device.type, enabled=False):
                begun = self.rule.scan_in_one_pass(*self._arguments(inputs, state, is_first))
            if begun is not None:
                states, left = begun
                self._unfinished[next(carried.leaves(state.sensitivity))] = left
                return self._results(states, state.sensitivity)
        return self._scan(inputs, state, is_first, None)

    def forward_into(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"], out: Any
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        """``forward`` for whoever keeps the memory: ``out`` is overwritten by the sensitivity to carry on with, unless it is ``None``.

        With ``T = 1`` it may be the sensitivity of ``state`` itself.

        Raises:
            TypeError, ValueError: as ``forward``, and for an ``out`` of another shape, or that shares memory with the sensitivity of
                ``state`` where ``T > 1``.
        """
        self._check_unroll(inputs, state, is_first)
        if out is not None:
            self._check_sensitivity("out", out, inputs.shape[1])
        return self._scan(inputs, state, is_first, out)

    def _scan(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"], out: Any
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        with torch.autocast(inputs.device.type, enabled=False):
            states, sensitivity = self.rule.scan(*self._arguments(inputs, state, is_first), out=out)
        return self._results(states, sensitivity)

    def _arguments(
        self, inputs: Tensor, state: CoreState, is_first: Tensor
    ) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
        inputs = inputs.to(self.matrices.dtype)
        return self.cell, inputs, self.matrices, self.vectors, state.cell, is_first, state.sensitivity

    def _results(self, states: Tensor, sensitivity: Any) -> tuple[Tensor, CoreState]:
        return self.cell.output(states), CoreState(states[-1].detach(), sensitivity)

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Float[Tensor, "B ... N"], is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B ... N"]]:
        """One step of the cell alone: no graph, no sensitivity. Raises as ``forward``."""
        check_precision((self.matrices, self.vectors))
        device = self.matrices.device
        expect("inputs", inputs, "B D", (None, self.input_size), FLOATING, device)
        self._check_cell("cell_state", cell_state, inputs.shape[0])
        expect("is_first", is_first, "B", (inputs.shape[0],), torch.bool, device)
        with torch.autocast(inputs.device.type, enabled=False):
            gates = (inputs.to(self.matrices.dtype) @ self.matrices.flatten(0, 1).t()).view(
                -1, *self.matrices.shape[:2]
            )
            cell_state = self.cell.forward(carried.cleared(cell_state, is_first), gates, self.vectors)
        return self.cell.output(cell_state), cell_state

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the core has no part in unrolls that this one has begun."""
        return {**self.__dict__, "_unfinished": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # pyright: ignore[reportUnknownMemberType]
        self._unfinished = WeakIdKeyDictionary()

    def _check_unroll(self, inputs: Tensor, state: CoreState, is_first: Tensor) -> None:
        check_precision((self.matrices, self.vectors))
        device = self.matrices.device
        expect("inputs", inputs, "T B D", (None, None, self.input_size), FLOATING, device)
        steps, batch_size, _ = inputs.shape
        expect("is_first", is_first, "T B", (steps, batch_size), torch.bool, device)
        if not isinstance(state, CoreState):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(
                f"state must be a CoreState, as initial_state(batch_size) gives it, got {type(state).__name__}"
            )
        self._check_cell("state.cell", state.cell, batch_size)
        if (state.sensitivity is None) == self.carries_sensitivity:
            carries = "needs a" if self.carries_sensitivity else "carries no"
            raise ValueError(
                f"rule {self.rule.name} {carries} sensitivity in its state: take it from this core's initial_state"
            )
        if state.sensitivity is not None:
            self._check_sensitivity("state.sensitivity", state.sensitivity, batch_size)

    def _check_cell(self, name: str, cell: object, batch_size: int) -> None:
        shape = self.cell.state_shape(self.num_units)
        axes = "B N" if len(shape) == 1 else "B M N"
        expect(name, cell, axes, (batch_size, *shape), self.matrices.dtype, self.matrices.device)

    def _check_sensitivity(self, name: str, sensitivity: Any, batch_size: int) -> None:
        if not self.carries_sensitivity:
            raise ValueError(f"rule {self.rule.name} carries no sensitivity, so {name} must be None")
        parts, given = self._carried_parts(), list(carried.leaves(sensitivity))
        if len(parts) != len(given):
            raise ValueError(
                f"{name} must be what rule {self.rule.name} carries: take it from this core's initial_state"
            )
        for (field, axes, shape), tensor in zip(parts, given, strict=True):
            expect(f"{name}{field}", tensor, axes, (batch_size, *shape), self.matrices.dtype, self.matrices.device)

    def _carried_parts(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, axes and shape of a stream, of every tensor that the rule carries for such a core; found once."""
        if self._parts is None:
            sizes = (self.matrices.detach().to("meta"), self.vectors.detach().to("meta"))
            example = self.rule.zeros(self.cell, *sizes, 1)
            annotations = getattr(example, "__annotations__", {})
            names = [f".{name}" for name in getattr(example, "_fields", ())]
            tensors = list(carried.leaves(example))
            if len(names) != len(tensors):
                names = [""] * len(tensors)
            self._parts = [
                (name, self._axes(annotations.get(name[1:])), tuple(tensor.shape[1:]))
                for name, tensor in zip(names, tensors, strict=True)
            ]
        return self._parts

    def _axes(self, annotation: Any) -> str:
        """Of one tensor that is carried, for messages."""
        per_unit = " M" if self.cell.num_states > 1 else ""
        return getattr(annotation, "dim_str", "B ...").replace(" ... ", f"{per_unit} ")
