"""Cores on top of each other: each carries the sensitivity of its own parameters, backpropagation goes through all of them.

Inside an unroll nothing is lost. Across its start, the credit that reaches a lower layer's past through the state of a layer above
it is: the top layer is exact, the others are not (docs/how-it-works.md says by how much).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from rtrl_core.cores.base import Core, CoreState
from rtrl_core.cores.several import SeveralCores, apart, together
from rtrl_core.shapes import Bool, Float, Tensor


class StackedCore(SeveralCores):
    """Layer ``l`` reads the outputs of layer ``l - 1``; the outputs of all layers, side by side, are those of the stack.

    All of them, because a layer that is read directly keeps more of its credit than one that is read through others.

    Raises:
        ValueError: if there is no layer, or one does not fit the outputs of the one below.
    """

    def __init__(self, layers: Sequence[Core]) -> None:
        super().__init__(layers)
        if not layers:
            raise ValueError("a stack needs at least one layer")
        for number, (below, above) in enumerate(pairwise(layers)):
            if above.input_size != below.output_size:
                raise ValueError(
                    f"layer {number + 1} of a stack has {above.input_size} inputs, but the layer below it has {below.output_size} outputs"
                )
        self.input_size = layers[0].input_size
        self.output_size = sum(layer.output_size for layer in layers)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        outputs: list[Tensor] = []
        states: list[CoreState] = []
        for core, part in zip(self.cores, apart(state), strict=True):
            inputs, after = core(inputs, part, is_first)
            outputs.append(inputs)
            states.append(after)
        return torch.cat(outputs, dim=-1), together(states)

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Any]:
        outputs: list[Tensor] = []
        cells: list[Any] = []
        for core, cell in zip(self.cores, cell_state, strict=True):
            inputs, after = core.step(inputs, cell, is_first)
            outputs.append(inputs)
            cells.append(after)
        return torch.cat(outputs, dim=-1), tuple(cells)
