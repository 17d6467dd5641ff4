"""The core of a network without memory: it hands on what it is given."""

import torch

from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cores.base import Core, CoreState
from rtrl_core.shapes import Bool, Float, Tensor


class Feedforward(Core):
    """Outputs are the inputs; its state is empty."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        # No parameter says where this module is: an empty buffer, which moves with it and is not saved, does.
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self._place: Tensor

    @property
    def carries_sensitivity(self) -> bool:
        return False

    @property
    def can_be_recorded(self) -> bool:
        return True

    def initial_state(self, batch_size: int) -> CoreState:
        return CoreState(self._place.new_zeros(batch_size, 0), None)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B D"], CoreState]:
        self._check("T B", inputs, is_first)
        return inputs, state

    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Tensor, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B D"], Tensor]:
        self._check("B", inputs, is_first)
        return inputs, cell_state

    def _check(self, axes: str, inputs: Tensor, is_first: Tensor) -> None:
        batch = (None,) * len(axes.split())
        expect("inputs", inputs, f"{axes} D", (*batch, self.input_size), FLOATING, self._place.device)
        expect("is_first", is_first, axes, tuple(inputs.shape[:-1]), torch.bool, self._place.device)
