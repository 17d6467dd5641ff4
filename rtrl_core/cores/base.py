"""What a recurrent core is: a cell, a learning rule and parameters, with a state that everybody else carries without looking inside."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from rtrl_core import carried
from rtrl_core.carried import Carried
from rtrl_core.shapes import Bool, Float, Tensor


class CoreState(NamedTuple):
    """What a recurrent core carries from one unroll to the next, per stream."""

    cell: Any
    """What the next step is computed from: of a diagonal cell a tensor ``[B, N]``, in general any ``Carried``."""
    sensitivity: Any
    """What the learning rule carries for credit older than the unroll; ``None`` under a rule that carries nothing."""

    def of(self, streams: Bool[Tensor, " B"]) -> "CoreState":
        """A copy with these streams only."""
        return carried.select(self, streams)

    def finite_streams(self) -> Bool[Tensor, " B"]:
        """Streams whose state and sensitivity hold finite numbers only; see ``carried.stream_norms`` for the cost."""
        finite = _finite_rows(self.cell)
        of_sensitivity = carried.finite_streams(self.sensitivity)
        return finite if of_sensitivity is None else finite & of_sensitivity

    def reset(self, streams: Bool[Tensor, " B"]) -> "CoreState":
        """The state in which the named streams begin anew, whatever they held. The sensitivity is reset in place, the cell is not:
        it is the last row of an unroll's outputs."""
        carried.reset_(self.sensitivity, streams)
        return self._replace(cell=carried.cleared(self.cell, streams))


def _finite_rows(cell: Carried) -> Bool[Tensor, " B"]:
    """Not by the norm, which a cell's state is too small for: a feed-forward network's has no numbers at all."""
    flags = [tensor.reshape(len(tensor), -1).isfinite().all(1) for tensor in carried.leaves(cell)]
    return torch.stack(flags).all(0)


class Core(nn.Module, ABC):
    """Core inputs in, outputs and a state to carry on with out.

    ``loss.backward()`` through the outputs leaves in the parameters' ``.grad`` what the learning rule promises; the gradient of the
    inputs ends at the start of the unroll. States are detached from it.
    """

    input_size: int
    """D."""
    output_size: int
    """Numbers per step that the heads read."""

    @property
    @abstractmethod
    def carries_sensitivity(self) -> bool:
        """Whether its learning rule carries anything."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> CoreState:
        """The state at the start of an episode, in every stream; all of it is zero."""

    @abstractmethod
    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        """Runs an unroll. Returns the outputs (under autograd) and the state to carry on with (detached)."""

    @abstractmethod
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Any]:
        """One step for acting, without a graph and without a sensitivity: outputs, and the next ``CoreState.cell``."""

    @torch.no_grad()
    def advance(self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]) -> CoreState:
        """The state at the end of an unroll that nobody differentiates or reads the outputs of. Raises as ``forward``."""
        return self(inputs, state, is_first)[1]

    def stream_norms(self, sensitivity: Carried) -> Float[Tensor, " B"] | None:
        """Size of what the rule carries for each stream, in float64, not finite where a number of it is not; ``None`` for nothing."""
        return carried.stream_norms(sensitivity)

    def refreshed(self, state: CoreState) -> CoreState:
        """``state`` between two unrolls, as the present weights would have left it, as far as it holds what that takes; asked for
        when new weights have come. A core that keeps nothing of the past but the state gives it back as it is."""
        return state

    def reuse_states(self) -> None:
        """From here on, whoever calls ``forward`` passes each state to one unroll only, whose backward pass is over before the next
        unroll, and never looks at it again: its memory may be used anew. A core that gains nothing by this does nothing."""


def check_precision(parameters: Iterable[Tensor]) -> None:
    """Raises ``TypeError`` for parameters that a sensitivity cannot be added up for."""
    for parameter in parameters:
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                "a recurrent core computes in float32 or float64, because its sensitivity adds up over whole episodes, but its "
                f"parameters are {parameter.dtype}: convert the layers around it only, or use autocast, which leaves it alone"
            )
