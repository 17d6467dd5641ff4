"""Two cores beside each other: each reads its own part of the inputs, and none sees the other's outputs."""

from typing import Any

import torch

from rtrl_core.cores.base import Core, CoreState
from rtrl_core.cores.several import SeveralCores, apart, together
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import pieces


class SideBySideCore(SeveralCores):
    """An actor's core and a critic's; the gradient of each is what it is alone.

    Inputs and outputs are those of the two, one after the other.
    """

    def __init__(self, actor: Core, critic: Core) -> None:
        super().__init__([actor, critic])
        self.input_size = actor.input_size + critic.input_size
        self.output_size = actor.output_size + critic.output_size

    @property
    def actor(self) -> Core:
        return self.cores[0]

    @property
    def critic(self) -> Core:
        return self.cores[1]

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        of_each = zip(self.cores, self._parts(inputs), apart(state), strict=True)
        each = [core(part, before, is_first) for core, part, before in of_each]
        return torch.cat([outputs for outputs, _ in each], dim=-1), together([after for _, after in each])

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Any]:
        each = [
            core.step(part, cell, is_first)
            for core, part, cell in zip(self.cores, self._parts(inputs), cell_state, strict=True)
        ]
        return torch.cat([outputs for outputs, _ in each], dim=-1), tuple(cell for _, cell in each)

    def _parts(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return pieces(inputs, [core.input_size for core in self.cores], -1)
