"""Several cores that are carried as one: their states and sensitivities side by side, in their order."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from rtrl_core import carried
from rtrl_core.cores.base import Core, CoreState
from rtrl_core.shapes import Float, Tensor


class SeveralCores(Core):
    """What does not depend on which core reads what; ``forward`` and ``step`` are the subclass's."""

    def __init__(self, cores: Sequence[Core]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(cores)

    @property
    def cores(self) -> list[Core]:
        return [layer for layer in self.layers if isinstance(layer, Core)]

    @property
    def carries_sensitivity(self) -> bool:
        return any(core.carries_sensitivity for core in self.cores)

    @property
    def can_be_recorded(self) -> bool:
        return all(core.can_be_recorded for core in self.cores)

    def initial_state(self, batch_size: int) -> CoreState:
        return together([core.initial_state(batch_size) for core in self.cores])

    def stream_norms(self, sensitivity: Any) -> Float[Tensor, " B"] | None:
        """Of all of them together."""
        of_each = [core.stream_norms(part) for core, part in zip(self.cores, sensitivity, strict=True)]
        norms = [norm for norm in of_each if norm is not None]
        return carried.stream_norms(tuple(norms)) if norms else None

    def refreshed(self, state: CoreState) -> CoreState:
        return together([core.refreshed(part) for core, part in zip(self.cores, apart(state), strict=True)])

    def advance_in_backward(self) -> None:
        for core in self.cores:
            core.advance_in_backward()

    def advance_in_forward(self) -> None:
        for core in self.cores:
            core.advance_in_forward()

    def settle(self, state: CoreState) -> None:
        for core, part in zip(self.cores, apart(state), strict=True):
            core.settle(part)

    def abandon(self, state: CoreState) -> None:
        for core, part in zip(self.cores, apart(state), strict=True):
            core.abandon(part)

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        parts = zip(self.cores, apart(before), apart(after), strict=True)
        return all(core.can_repeat(old, new) for core, old, new in parts)


def together(states: Sequence[CoreState]) -> CoreState:
    return CoreState(tuple(state.cell for state in states), tuple(state.sensitivity for state in states))


def apart(state: CoreState) -> list[CoreState]:
    return [CoreState(cell, sensitivity) for cell, sensitivity in zip(state.cell, state.sensitivity, strict=True)]
