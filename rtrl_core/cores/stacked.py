"""Cores on top of each other: each carries the sensitivity of its own parameters, backpropagation goes through all of them.

Inside an unroll nothing is lost. Across its start, the credit that reaches a lower layer's past through the state of a layer above
it is: the top layer is exact, the others are not (docs/how-it-works.md says by how much).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from rtrl_core import carried
from rtrl_core.cores.base import Core, CoreState
from rtrl_core.shapes import Bool, Float, Tensor


class StackedCore(Core):
    """Layer ``l`` reads the outputs of layer ``l - 1``; the outputs of all layers, side by side, are those of the stack.

    All of them, because a layer that is read directly keeps more of its credit than one that is read through others.

    Raises:
        ValueError: if there is no layer, or one does not fit the outputs of the one below.
    """

    def __init__(self, layers: Sequence[Core]) -> None:
        super().__init__()
        if not layers:
            raise ValueError("a stack needs at least one layer")
        for number, (below, above) in enumerate(pairwise(layers)):
            if above.input_size != below.output_size:
                raise ValueError(
                    f"layer {number + 1} of a stack has {above.input_size} inputs, but the layer below it has {below.output_size} outputs"
                )
        self.layers = nn.ModuleList(layers)
        self.input_size = layers[0].input_size
        self.output_size = sum(layer.output_size for layer in layers)

    @property
    def _cores(self) -> list[Core]:
        return [layer for layer in self.layers if isinstance(layer, Core)]

    @property
    def carries_sensitivity(self) -> bool:
        return any(core.carries_sensitivity for core in self._cores)

    def initial_state(self, batch_size: int) -> CoreState:
        return _together([core.initial_state(batch_size) for core in self._cores])

    def stream_norms(self, sensitivity: Any) -> Float[Tensor, " B"] | None:
        """Of all layers together."""
        of_layers = [core.stream_norms(part) for core, part in zip(self._cores, sensitivity, strict=True)]
        norms = [norm for norm in of_layers if norm is not None]
        return carried.stream_norms(tuple(norms)) if norms else None

    def refreshed(self, state: CoreState) -> CoreState:
        return _together([core.refreshed(part) for core, part in zip(self._cores, _apart(state), strict=True)])

    def advance_in_backward(self) -> None:
        for core in self._cores:
            core.advance_in_backward()

    def settle(self, state: CoreState) -> None:
        for core, part in zip(self._cores, _apart(state), strict=True):
            core.settle(part)

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        parts = zip(self._cores, _apart(before), _apart(after), strict=True)
        return all(core.can_repeat(old, new) for core, old, new in parts)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        outputs: list[Tensor] = []
        states: list[CoreState] = []
        for core, part in zip(self._cores, _apart(state), strict=True):
            inputs, after = core(inputs, part, is_first)
            outputs.append(inputs)
            states.append(after)
        return torch.cat(outputs, dim=-1), _together(states)

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Any]:
        outputs: list[Tensor] = []
        cells: list[Any] = []
        for core, cell in zip(self._cores, cell_state, strict=True):
            inputs, after = core.step(inputs, cell, is_first)
            outputs.append(inputs)
            cells.append(after)
        return torch.cat(outputs, dim=-1), tuple(cells)


def _together(states: Sequence[CoreState]) -> CoreState:
    return CoreState(tuple(state.cell for state in states), tuple(state.sensitivity for state in states))


def _apart(state: CoreState) -> list[CoreState]:
    return [CoreState(cell, sensitivity) for cell, sensitivity in zip(state.cell, state.sensitivity, strict=True)]
