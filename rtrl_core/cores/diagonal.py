"""A diagonal cell with its parameters and a learning rule, fused: the fast path of every cell that is element-wise."""

from typing import Any

import torch
from torch import nn

from rtrl_core import carried
from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cells import CELLS, DiagonalCell
from rtrl_core.cores.base import Core, CoreState, check_precision
from rtrl_core.names import look_up
from rtrl_core.rules import RULES, DiagonalRule, LearningRule
from rtrl_core.shapes import Bool, Float, Tensor


class DiagonalCore(Core):
    """Its outputs are the cell's states.

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
            raise ValueError(f"rule {found.name} is not for diagonal cells such as {type(self.cell).__name__}")
        self.rule: DiagonalRule[Any] = found
        self.input_size = input_size
        self.num_units = self.output_size = num_units
        self.matrices = nn.Parameter(torch.empty(len(self.cell.gate_names), num_units, input_size))
        self.vectors = nn.Parameter(torch.empty(len(self.cell.vector_names), num_units))
        self.cell.initialise(self.matrices, self.vectors)
        self._reuses_states = False
        self._old: Any = None
        """What the last unroll started from: nobody reads it any more once the next one begins."""
        self._parts: list[tuple[str, str, tuple[int, ...]]] | None = None

    @property
    def carries_sensitivity(self) -> bool:
        return self.rule.carries_sensitivity

    def initial_state(self, batch_size: int) -> CoreState:
        """Zero state and, under an RTRL rule, zero sensitivity, on the device of the parameters."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        cell = self.matrices.new_zeros(batch_size, self.num_units)
        return CoreState(cell, self.rule.zeros(self.cell, self.matrices.detach(), self.vectors.detach(), batch_size))

    def stream_norms(self, sensitivity: Any) -> Float[Tensor, " B"] | None:
        return self.rule.stream_norms(sensitivity)

    def reuse_states(self) -> None:
        self._reuses_states = True

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B N"], CoreState]:
        """Runs an unroll. Returns the cell states (under autograd) and the state to carry on with (detached).

        Raises:
            TypeError, ValueError: for an argument of another dtype, shape or device, a state that requires a gradient, or a core in
                half precision.
        """
        self._check_unroll(inputs, state, is_first)
        return self._scan(inputs, state, is_first, self._free_memory(state, len(inputs)))

    def forward_into(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"], out: Any
    ) -> tuple[Float[Tensor, "T B N"], CoreState]:
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
    ) -> tuple[Float[Tensor, "T B N"], CoreState]:
        with torch.autocast(inputs.device.type, enabled=False):
            states, sensitivity = self.rule.scan(
                self.cell,
                inputs.to(self.matrices.dtype),
                self.matrices,
                self.vectors,
                state.cell,
                is_first,
                state.sensitivity,
                out,
            )
        return states, CoreState(states[-1].detach(), sensitivity)

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Float[Tensor, "B N"], is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """One step of the cell alone: no graph, no sensitivity. Raises as ``forward``."""
        check_precision((self.matrices, self.vectors))
        device = self.matrices.device
        expect("inputs", inputs, "B D", (None, self.input_size), FLOATING, device)
        expect("cell_state", cell_state, "B N", (inputs.shape[0], self.num_units), self.matrices.dtype, device)
        expect("is_first", is_first, "B", (inputs.shape[0],), torch.bool, device)
        with torch.autocast(inputs.device.type, enabled=False):
            gates = (inputs.to(self.matrices.dtype) @ self.matrices.flatten(0, 1).t()).view(
                -1, *self.matrices.shape[:2]
            )
            cell_state = self.cell.forward(cell_state.masked_fill(is_first.unsqueeze(-1), 0), gates, self.vectors)
        return cell_state, cell_state

    def _free_memory(self, state: CoreState, num_steps: int) -> Any:
        """Where the next sensitivity may be written. A single step advances in place, a longer unroll reads the old one in backward."""
        if not self._reuses_states or state.sensitivity is None:
            return None
        if num_steps == 1:
            return state.sensitivity
        free, self._old = self._old, state.sensitivity
        if free is None or free is state.sensitivity or not _alike(free, state.sensitivity):
            return None
        return free

    def _check_unroll(self, inputs: Tensor, state: CoreState, is_first: Tensor) -> None:
        check_precision((self.matrices, self.vectors))
        dtype, device = self.matrices.dtype, self.matrices.device
        expect("inputs", inputs, "T B D", (None, None, self.input_size), FLOATING, device)
        steps, batch_size, _ = inputs.shape
        expect("is_first", is_first, "T B", (steps, batch_size), torch.bool, device)
        if not isinstance(state, CoreState):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(
                f"state must be a CoreState, as initial_state(batch_size) gives it, got {type(state).__name__}"
            )
        expect("state.cell", state.cell, "B N", (batch_size, self.num_units), dtype, device)
        if state.cell.requires_grad:
            raise ValueError(
                "state.cell must not require a gradient: that of an initial state would end at the first unroll; detach it"
            )
        if (state.sensitivity is None) == self.carries_sensitivity:
            carries = "needs a" if self.carries_sensitivity else "carries no"
            raise ValueError(
                f"rule {self.rule.name} {carries} sensitivity in its state: take it from this core's initial_state"
            )
        if state.sensitivity is not None:
            self._check_sensitivity("state.sensitivity", state.sensitivity, batch_size)

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
                (name, getattr(annotations.get(name[1:]), "dim_str", "B ..."), tuple(tensor.shape[1:]))
                for name, tensor in zip(names, tensors, strict=True)
            ]
        return self._parts


def _alike(one: Any, other: Any) -> bool:
    pairs = zip(carried.leaves(one), carried.leaves(other), strict=True)
    return all((a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) for a, b in pairs)
