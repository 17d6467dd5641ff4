"""The output gate of the eLSTM over any recurrent core: ``h_t = sigmoid(O [x_t, c_t]) * c_t``."""

from typing import Any

import torch
from torch import nn

from rtrl_core.cells import ELSTMCell
from rtrl_core.cores.base import Core, CoreState
from rtrl_core.cores.diagonal import DiagonalCore
from rtrl_core.rules import LearningRule
from rtrl_core.shapes import Bool, Float, Tensor


class GatedCore(Core):
    """The gate sees ``c_t``, not ``c_{t-1}``: nothing recurs through ``h``, so its parameters need no sensitivity."""

    def __init__(self, core: Core) -> None:
        super().__init__()
        self.core = core
        self.input_size, self.output_size = core.input_size, core.output_size
        self.gate = nn.Linear(core.input_size + core.output_size, core.output_size)

    @property
    def carries_sensitivity(self) -> bool:
        return self.core.carries_sensitivity

    @property
    def can_be_recorded(self) -> bool:
        return self.core.can_be_recorded

    def initial_state(self, batch_size: int) -> CoreState:
        return self.core.initial_state(batch_size)

    def stream_norms(self, sensitivity: Any) -> Float[Tensor, " B"] | None:
        return self.core.stream_norms(sensitivity)

    def refreshed(self, state: CoreState) -> CoreState:
        return self.core.refreshed(state)

    def advance_in_backward(self) -> None:
        self.core.advance_in_backward()

    def advance_in_forward(self) -> None:
        self.core.advance_in_forward()

    def settle(self, state: CoreState) -> None:
        self.core.settle(state)

    def abandon(self, state: CoreState) -> None:
        self.core.abandon(state)

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        return self.core.can_repeat(before, after)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B N"], CoreState]:
        """Outputs ``h_1..h_T`` and the state to carry on with; raises what the core raises."""
        cells, state = self.core(inputs, state, is_first)
        return self.open(inputs, cells), state

    def advance(self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]) -> CoreState:
        return self.core.advance(inputs, state, is_first)

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B N"], Any]:
        """One step for acting: ``(h_t, c_t)``."""
        cells, cell_state = self.core.step(inputs, cell_state, is_first)
        return self.open(inputs, cells), cell_state

    def open(self, inputs: Float[Tensor, "*batch D"], cells: Float[Tensor, "*batch N"]) -> Float[Tensor, "*batch N"]:
        """What the gate lets through of the outputs of the core inside."""
        return torch.sigmoid(self.gate(torch.cat([inputs.to(cells.dtype), cells], dim=-1))) * cells


class ELSTM(GatedCore):
    """The eLSTM layer (Irie et al. 2024): its element-wise cell under a learning rule, and its output gate.

    Args:
        input_size: D.
        num_units: N.
        rule: a name in ``RULES``, or a rule of your own.
        forget_bias: added to the forget gate's bias at the start; above 0 the layer begins by remembering.

    Raises:
        ValueError: see ``DiagonalCore``.
    """

    def __init__(
        self, input_size: int, num_units: int, rule: str | LearningRule = "segment", *, forget_bias: float = 0.0
    ) -> None:
        super().__init__(DiagonalCore(input_size, num_units, ELSTMCell(forget_bias=forget_bias), rule))
