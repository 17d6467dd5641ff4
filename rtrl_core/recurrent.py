"""Recurrent layers for ordinary PyTorch code: ``loss.backward()`` leaves the exact untruncated gradient in their ``.grad``.

    core = ELSTM(input_size=257, num_units=512)
    state = core.initial_state(batch_size)
    for inputs, is_first, targets in unrolls:                   # [T, B, D], [T, B]
        outputs, state = core(inputs, state, is_first)          # [T, B, N]
        loss_of(outputs, targets).backward()                    # credit reaches back to the start of each episode

The state is detached between calls: what happened earlier is credited through the sensitivity, not through an old graph.

This holds for one layer on given inputs. The gradient of the inputs ends at the start of the unroll, and with it that of whatever
computed them: below a recurrent layer an encoder or another recurrent layer is trained truncated, also under an exact rule.
"""

from typing import NamedTuple, TypeVar

import torch
from torch import nn

from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cells import CELLS, DiagonalCell, ELSTMCell
from rtrl_core.rules import RULES
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor

V = TypeVar("V")

PRECISIONS = (torch.float32, torch.float64)


class CoreState(NamedTuple):
    """What a recurrent core carries from one unroll to the next, per stream."""

    cell: Float[Tensor, "B N"]
    sensitivity: Sensitivity | None
    """``None`` under a rule that carries none."""

    def of(self, streams: Bool[Tensor, " B"]) -> "CoreState":
        """A copy with these streams only."""
        sensitivity = self.sensitivity
        return CoreState(
            self.cell[streams],
            None if sensitivity is None else type(sensitivity)(*(part[streams] for part in sensitivity)),
        )

    def finite_streams(self) -> Bool[Tensor, " B"]:
        """Streams whose state and sensitivity hold finite numbers only; see ``Sensitivity.stream_norms`` for the cost."""
        finite = self.cell.isfinite().all(1)
        return finite if self.sensitivity is None else finite & self.sensitivity.finite_streams()

    def reset(self, streams: Bool[Tensor, " B"]) -> "CoreState":
        """The state in which the named streams begin anew, whatever they held. The sensitivity is reset in place, the cell is not:
        it is the last row of an unroll's outputs."""
        if self.sensitivity is not None:
            self.sensitivity.reset_(streams)
        return self._replace(cell=self.cell.masked_fill(streams.unsqueeze(1), 0))


class DiagonalCore(nn.Module):
    """A diagonal cell with its parameters and a learning rule.

    Args:
        input_size: D.
        num_units: N.
        cell: a name in ``CELLS``, or a cell of your own.
        rule: a name in ``RULES``. It changes gradients, never outputs.

    Raises:
        ValueError: for an unknown cell or rule, or a size below 1.
    """

    def __init__(
        self, input_size: int, num_units: int, cell: str | DiagonalCell = "elstm", rule: str = "segment"
    ) -> None:
        super().__init__()
        if input_size < 1 or num_units < 1:
            raise ValueError(f"input_size and num_units must be at least 1, got {input_size} and {num_units}")
        self.cell = _look_up(CELLS, cell, "cell")() if isinstance(cell, str) else cell
        self.rule = _look_up(RULES, rule, "rule")
        self.num_units = num_units
        self.matrices = nn.Parameter(torch.empty(len(self.cell.gate_names), num_units, input_size))
        self.vectors = nn.Parameter(torch.empty(len(self.cell.vector_names), num_units))
        self.cell.initialise(self.matrices, self.vectors)

    def initial_state(self, batch_size: int) -> CoreState:
        """Zero state and, under an RTRL rule, zero sensitivity, on the device of the parameters."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        cell_state = self.matrices.new_zeros(batch_size, self.num_units)
        return CoreState(cell_state, self.initial_sensitivity(batch_size))

    def initial_sensitivity(self, batch_size: int) -> Sensitivity | None:
        if not self.rule.carries_sensitivity:
            return None
        return Sensitivity.zeros(batch_size, self.matrices.detach(), self.vectors.detach())

    def forward(
        self,
        inputs: Float[Tensor, "T B D"],
        state: CoreState,
        is_first: Bool[Tensor, "T B"],
        out: Sensitivity | None = None,
    ) -> tuple[Float[Tensor, "T B N"], CoreState]:
        """Runs an unroll. Returns the cell states (under autograd) and the state to carry on with (detached).

        ``out`` names a sensitivity of the same shapes that may be overwritten, to save an allocation per unroll: pass the one
        from two unrolls ago, or for ``T = 1`` the one of ``state`` itself.

        Raises:
            TypeError, ValueError: for an argument of another dtype, shape or device, an ``out`` that shares memory with the
                sensitivity of ``state`` where ``T > 1``, a state that requires a gradient, or a core in half precision.
        """
        self._check_unroll(inputs, state, is_first, out)
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
    ) -> Float[Tensor, "B N"]:
        """One step of the cell alone, for acting: no graph, no sensitivity. Raises as ``forward``."""
        self._check_precision()
        device = self.matrices.device
        expect("inputs", inputs, "B D", (None, self.matrices.shape[2]), FLOATING, device)
        expect("cell_state", cell_state, "B N", (inputs.shape[0], self.num_units), self.matrices.dtype, device)
        expect("is_first", is_first, "B", (inputs.shape[0],), torch.bool, device)
        with torch.autocast(inputs.device.type, enabled=False):
            gates = (inputs.to(self.matrices.dtype) @ self.matrices.flatten(0, 1).t()).view(
                -1, *self.matrices.shape[:2]
            )
            return self.cell.forward(cell_state.masked_fill(is_first.unsqueeze(-1), 0), gates, self.vectors)

    def _check_precision(self) -> None:
        if self.matrices.dtype not in PRECISIONS or self.vectors.dtype != self.matrices.dtype:
            raise TypeError(
                "a recurrent core computes in float32 or float64, because its sensitivity adds up over whole episodes, but its "
                f"parameters are {self.matrices.dtype}: convert the layers around it only, or use autocast, which leaves it alone"
            )

    def _check_unroll(self, inputs: Tensor, state: CoreState, is_first: Tensor, out: Sensitivity | None) -> None:
        self._check_precision()
        (gates, units, size), dtype, device = self.matrices.shape, self.matrices.dtype, self.matrices.device
        expect("inputs", inputs, "T B D", (None, None, size), FLOATING, device)
        steps, batch_size, _ = inputs.shape
        expect("is_first", is_first, "T B", (steps, batch_size), torch.bool, device)
        if not isinstance(state, CoreState):
            raise TypeError(
                f"state must be a CoreState, as initial_state(batch_size) gives it, got {type(state).__name__}"
            )
        expect("state.cell", state.cell, "B N", (batch_size, units), dtype, device)
        if state.cell.requires_grad:
            raise ValueError(
                "state.cell must not require a gradient: that of an initial state would end at the first unroll; detach it"
            )
        if (state.sensitivity is None) == self.rule.carries_sensitivity:
            carries = "needs a" if self.rule.carries_sensitivity else "carries no"
            raise ValueError(
                f"rule {self.rule.name} {carries} sensitivity in its state: take it from this core's initial_state"
            )
        for name, sensitivity in (("state.sensitivity", state.sensitivity), ("out", out)):
            if sensitivity is None:
                continue
            if state.sensitivity is None:
                raise ValueError(f"rule {self.rule.name} carries no sensitivity, so out must be None")
            matrices, vectors = sensitivity
            expect(f"{name}.matrices", matrices, "B K N D", (batch_size, gates, units, size), dtype, device)
            expect(f"{name}.vectors", vectors, "B P N", (batch_size, *self.vectors.shape), dtype, device)


class ELSTM(nn.Module):
    """The eLSTM layer (Irie et al. 2024): element-wise core and output gate, ``h_t = sigmoid(O [x_t, c_t]) * c_t``.

    The gate sees ``c_t``, not ``c_{t-1}``: nothing recurs through ``h``, so its parameters need no sensitivity.
    """

    def __init__(
        self, input_size: int, num_units: int, rule: str = "segment", cell: str | DiagonalCell | None = None
    ) -> None:
        super().__init__()
        self.core = DiagonalCore(input_size, num_units, ELSTMCell() if cell is None else cell, rule)
        self.gate = nn.Linear(input_size + num_units, num_units)

    def initial_state(self, batch_size: int) -> CoreState:
        return self.core.initial_state(batch_size)

    def forward(
        self,
        inputs: Float[Tensor, "T B D"],
        state: CoreState,
        is_first: Bool[Tensor, "T B"],
        out: Sensitivity | None = None,
    ) -> tuple[Float[Tensor, "T B N"], CoreState]:
        """Outputs ``h_1..h_T`` and the state to carry on with; see ``DiagonalCore.forward``."""
        cells, state = self.core(inputs, state, is_first, out)
        return self._output(inputs, cells), state

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Float[Tensor, "B N"], is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """One step for acting: ``(h_t, c_t)``."""
        cell_state = self.core.step(inputs, cell_state, is_first)
        return self._output(inputs, cell_state), cell_state

    def _output(self, inputs: Tensor, cells: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(torch.cat([inputs.to(cells.dtype), cells], dim=-1))) * cells


def _look_up(registry: dict[str, V], name: str, what: str) -> V:
    if name not in registry:
        raise ValueError(f"unknown {what} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]
