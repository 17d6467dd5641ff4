"""What a recurrent core is: a cell, a learning rule and parameters, with a state that everybody else carries without looking inside."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from rtrl_core import carried
from rtrl_core.carried import Carried
from rtrl_core.options import NoOptions
from rtrl_core.shapes import Bool, Float, Int, Tensor


@carried.readable
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

    def select(self, streams: Bool[Tensor, " B"] | Int[Tensor, " S"]) -> "CoreState":
        """A copy with the streams that are true, or with those of these numbers, in their order.

        Raises:
            TypeError: for flags or numbers of another type: uint8 is either, to torch.
        """
        if streams.dtype not in (torch.bool, torch.int64):
            raise TypeError(f"streams must be bool [B] or int64 [S], got {str(streams.dtype).removeprefix('torch.')}")
        return carried.select(self, streams)

    def to(self, *where: torch.device | str | torch.dtype) -> "CoreState":
        """On a device, of a floating type, or both, as the module that it belongs to is moved."""
        state = self
        for word in where:
            state = carried.to(state, dtype=word) if isinstance(word, torch.dtype) else carried.to(state, device=word)
        return state

    def detach(self) -> "CoreState":
        """The same memory without a graph. What a core returns has none already: credit for the past is in the sensitivity, which
        stays. What forgets it is another ``initial_state``, or ``reset``."""
        return carried.detached(self)

    def state_dict(self) -> dict[str, Any]:
        """Nested dictionaries of tensors, which ``torch.load(..., weights_only=True)`` reads; ``carried.load`` is the way back."""
        return carried.save(self)


def _finite_rows(cell: Carried) -> Bool[Tensor, " B"]:
    """Not by the norm, which a cell's state is too small for: a feed-forward network's has no numbers at all."""
    flags = [tensor.reshape(len(tensor), -1).isfinite().all(1) for tensor in carried.leaves(cell)]
    return torch.stack(flags).all(0)


class Core(nn.Module, ABC):
    """Core inputs in, outputs and a state to carry on with out.

    ``loss.backward()`` through the outputs leaves in the parameters' ``.grad`` what the learning rule promises; the gradient of the
    inputs ends at the start of the unroll. States are detached from it.
    """

    Options: ClassVar[type] = NoOptions
    """Its own dataclass, of a core that ``build_core`` is given the class of."""
    input_size: int
    """D."""
    output_size: int
    """Numbers per step that the heads read."""

    @property
    @abstractmethod
    def carries_sensitivity(self) -> bool:
        """Whether its learning rule carries anything."""

    @property
    def can_be_recorded(self) -> bool:
        """Whether an unroll and its one backward pass, after ``advance_in_backward``, and what ``settle`` then does, can be recorded and
        done again (``recording.py``): the host reads no number, and what is done does not change from unroll to unroll."""
        return False

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

    def inner(self, state: CoreState) -> CoreState:
        """What there is in ``state`` for a core of the same parameters that keeps nothing but state and sensitivity: of this one, all."""
        return state

    def refreshed(self, state: CoreState) -> CoreState:
        """``state`` between two unrolls, as the present weights would have left it, as far as it holds what that takes; asked for
        when new weights have come. A core that keeps nothing of the past but the state gives it back as it is."""
        return state

    def advance_in_backward(self) -> None:
        """From here on ``forward`` under autograd may leave the sensitivity to its backward pass, which advances it in place: one read
        and one write of it, and no memory beside it.

        Whoever says so passes each state to one unroll only, runs the one backward pass of each unroll before the next, and looks at
        no sensitivity in between: until then it is that of the start, in the state that was given as in the one that was returned.
        Where there is no backward pass, ``settle`` or the next unroll from the state does what is left. A core that gains nothing by
        this does nothing.
        """

    def advance_in_forward(self) -> None:
        """The opposite, with which a core begins: ``forward`` gives the sensitivity of the end in memory of its own, and that of the start
        stays what it is, for as many backward passes and unrolls from there as one likes."""

    def settle(self, state: CoreState) -> None:
        """Advances the sensitivity of ``state``, as ``forward`` returned it, if its backward pass has not."""

    def abandon(self, state: CoreState) -> None:
        """Forgets an unroll from ``state`` that was begun and has come to nothing: its sensitivity stays that of the start."""

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        """Whether the unroll that led from one state to the other could be run again: nothing has been advanced in place yet."""
        old = {id(tensor) for tensor in carried.leaves(before.sensitivity)}
        return not any(id(tensor) in old for tensor in carried.leaves(after.sensitivity))


def check_precision(parameters: Iterable[Tensor]) -> None:
    """Raises ``TypeError`` for parameters that a sensitivity cannot be added up for."""
    for parameter in parameters:
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                "a recurrent core computes in float32 or float64, because its sensitivity adds up over whole episodes, but its "
                f"parameters are {parameter.dtype}: convert the layers around it only, or use autocast, which leaves it alone"
            )
