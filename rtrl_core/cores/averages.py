"""Exponential averages of the inputs, several decays side by side: memory that nothing has to be learned for, to compare with."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rtrl_core import carried
from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cores.base import Core, CoreState
from rtrl_core.cores.retention import check_decays
from rtrl_core.rules import LearningRule
from rtrl_core.shapes import Bool, Float, Tensor


@dataclass(frozen=True, slots=True)
class AverageOptions:
    """Raises ``ValueError`` for a decay that does not fit."""

    decays: tuple[float, ...] = tuple(1 - 2.0**-k for k in range(1, 9))
    """The default remembers 2, 4, 8 .. 256 steps."""

    def __post_init__(self) -> None:
        check_decays(self.decays)
        if not self.decays:
            raise ValueError("decays must be at least one number, got none")


class AverageCore(Core):
    """``m_t = gamma m_{t-1} + (1 - gamma) x_t`` for each decay; the outputs are ``x_t`` and all of these, ``D (1 + decays)`` numbers.

    It has no weights, so its gradient is exact under any rule, and there is nothing to carry for it.

    Args:
        input_size: D.
        num_units: of no use here; it is what every core is made with.
        rule: likewise.
    """

    Options: ClassVar[type] = AverageOptions

    def __init__(
        self,
        input_size: int,
        num_units: int,
        rule: str | LearningRule = "segment",
        options: AverageOptions | None = None,
    ) -> None:
        super().__init__()
        options = AverageOptions() if options is None else options
        self.input_size, self.output_size = input_size, input_size * (1 + len(options.decays))
        # In float64, and cast to the inputs' type: 1 - 2^-8 is near one.
        self.register_buffer("decays", torch.tensor(options.decays, dtype=torch.float64)[:, None], persistent=False)
        self.decays: Tensor
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self._place: Tensor

    @property
    def carries_sensitivity(self) -> bool:
        return False

    def initial_state(self, batch_size: int) -> CoreState:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return CoreState(self._place.new_zeros(batch_size, len(self.decays), self.input_size), None)

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        self._check("T B", inputs, is_first, state.cell)
        now: Tensor = state.cell.detach()
        outputs: list[Tensor] = []
        for x, first in zip(inputs, is_first, strict=True):
            now = self._following(x, now, first)
            outputs.append(self._read(x, now))
        return torch.stack(outputs), CoreState(now.detach(), None)

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Any]:
        self._check("B", inputs, is_first, cell_state)
        cell_state = self._following(inputs, cell_state, is_first)
        return self._read(inputs, cell_state), cell_state

    def _following(self, inputs: Tensor, averages: Tensor, is_first: Tensor) -> Tensor:
        decays = self.decays.to(averages.dtype)
        return decays * carried.cleared(averages, is_first) + (1 - decays) * inputs.to(averages.dtype).unsqueeze(1)

    @staticmethod
    def _read(inputs: Tensor, averages: Tensor) -> Tensor:
        return torch.cat([inputs.to(averages.dtype), averages.flatten(1)], dim=-1)

    def _check(self, axes: str, inputs: Tensor, is_first: Tensor, cell: object) -> None:
        sizes = (None,) * len(axes.split())
        expect("inputs", inputs, f"{axes} D", (*sizes, self.input_size), FLOATING, self._place.device)
        expect("is_first", is_first, axes, tuple(inputs.shape[:-1]), torch.bool, self._place.device)
        shape = (inputs.shape[-2], len(self.decays), self.input_size)
        expect("state.cell", cell, "B decays D", shape, self._place.dtype, self._place.device)
