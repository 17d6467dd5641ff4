"""Cores beside each other: each reads its own part of the inputs, and none sees another's outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rtrl_core.cores.base import Core, CoreState
from rtrl_core.cores.stacked import StackedCore
from rtrl_core.shapes import Bool, Float, Tensor


class SideBySideCore(StackedCore):
    """Carries its cores' states and sensitivities as a stack does; the gradient of each is what it is alone.

    Inputs and outputs are those of the cores, one after the other.

    Raises:
        ValueError: if there is no core.
    """

    def __init__(self, cores: Sequence[Core]) -> None:
        Core.__init__(self)
        if not cores:
            raise ValueError("expected at least one core")
        self.layers = nn.ModuleList(cores)
        self.input_size = sum(core.input_size for core in cores)
        self.output_size = sum(core.output_size for core in cores)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        parts = self._parts(inputs)
        states = zip(state.cell, state.sensitivity, strict=True)
        each = [
            core(part, CoreState(cell, sensitivity), is_first)
            for core, part, (cell, sensitivity) in zip(self._cores, parts, states, strict=True)
        ]
        after = CoreState(tuple(state.cell for _, state in each), tuple(state.sensitivity for _, state in each))
        return torch.cat([outputs for outputs, _ in each], dim=-1), after

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Any]:
        each = [
            core.step(part, cell, is_first)
            for core, part, cell in zip(self._cores, self._parts(inputs), cell_state, strict=True)
        ]
        return torch.cat([outputs for outputs, _ in each], dim=-1), tuple(cell for _, cell in each)

    def _parts(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return torch.split(inputs, [core.input_size for core in self._cores], dim=-1)
