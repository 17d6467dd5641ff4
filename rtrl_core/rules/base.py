"""What a learning rule is: how credit that is older than an unroll reaches the parameters of a core.

Over an unroll from a carried state ``s_0``, for any differentiable recurrence (docs/how-it-works.md)::

    dL/dtheta = backpropagation inside the unroll, s_0 held fixed  +  (dL/ds_0) . S_0        S_0 = ds_0/dtheta

A rule owns ``S``, exact or not: what it consists of, how it is advanced, and how ``dL/ds_0`` is turned into a gradient by it. The
options of a rule are the fields of its dataclass.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from rtrl_core import carried
from rtrl_core.carried import Carried
from rtrl_core.cells.base import DiagonalCell
from rtrl_core.cells.recurrent import RecurrentCell
from rtrl_core.rules.one_pass import OnePass
from rtrl_core.shapes import Bool, Float, Tensor

S = TypeVar("S")


class LearningRule(ABC):
    """The part that rules for all kinds of cells share."""

    name: ClassVar[str]
    carries_sensitivity: ClassVar[bool]
    exact: ClassVar[bool] = False
    """Whether its gradient is that of backpropagation through whole episodes, for weights that stand still: the tests hold it to that."""

    can_be_recorded: ClassVar[bool] = False
    """See ``Core.can_be_recorded``."""

    def stream_norms(self, sensitivity: Carried) -> Float[Tensor, " B"] | None:
        """Size of what is carried for each stream, in float64, not finite where a number of the stream is not; ``None`` for nothing."""
        return carried.stream_norms(sensitivity)


class DiagonalRule(LearningRule, Generic[S]):
    """A rule for diagonal cells, fused with the recurrence: one function from an unroll's inputs to its states, under autograd."""

    @abstractmethod
    def zeros(
        self, cell: DiagonalCell, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"], batch_size: int
    ) -> S:
        """What is carried at the start of an episode."""

    @abstractmethod
    def scan(
        self,
        cell: DiagonalCell,
        inputs: Float[Tensor, "T B D"],
        matrices: Float[Tensor, "K N D"],
        vectors: Float[Tensor, "P N"],
        state: Float[Tensor, "B ... N"],
        is_first: Bool[Tensor, "T B"],
        sensitivity: S,
        out: S | None,
    ) -> tuple[Float[Tensor, "T B ... N"], S]:
        """The states ``c_1..c_T``, whose backward pass leaves the rule's gradient in the parameters, and what is carried on.

        Args:
            out: where to write what is carried on; ``None`` is memory of its own. With ``T = 1`` it may be ``sensitivity`` itself,
                otherwise it shares no memory with that.
        """

    def scan_in_one_pass(
        self,
        cell: DiagonalCell,
        inputs: Float[Tensor, "T B D"],
        matrices: Float[Tensor, "K N D"],
        vectors: Float[Tensor, "P N"],
        state: Float[Tensor, "B ... N"],
        is_first: Bool[Tensor, "T B"],
        sensitivity: S,
    ) -> tuple[Float[Tensor, "T B ... N"], OnePass] | None:
        """The states, whose one backward pass advances ``sensitivity`` in place while it has it in hand anyway, and what is left to
        do until then; ``None`` of a rule that has no such form."""
        del cell, inputs, matrices, vectors, state, is_first, sensitivity
        return None


class UnrolledRule(LearningRule, Generic[S]):
    """A rule for any differentiable cell (``cores/unrolled.py``), which keeps the unroll itself to autograd."""

    cells: ClassVar[type] = RecurrentCell
    """The class of cells that it is for."""

    def misfit(self, cell: Any) -> str | None:
        """What it misses in this cell, as the beginning of a sentence; ``None`` if it fits."""
        if isinstance(cell, self.cells):
            return self.further_misfit(cell)
        return f"rule {self.name} is for cells of the kind {self.cells.__name__}, which {type(cell).__name__} is not"

    def further_misfit(self, cell: Any) -> str | None:
        """The same for a cell of that class."""
        del cell
        return None

    @abstractmethod
    def initial(self, cell: Any, batch_size: int) -> S:
        """What is carried at the start of an episode; ``cell`` is a ``RecurrentCell``."""

    @abstractmethod
    def advance(
        self, cell: Any, inputs: Float[Tensor, "T B D"], state: Any, is_first: Bool[Tensor, "T B"], sensitivity: S
    ) -> S:
        """What is carried at the end of the unroll that starts from ``state``. It may use autograd; nothing of it is kept."""

    @abstractmethod
    def credit(self, cell: Any, adjoint: Any, sensitivity: S) -> tuple[Tensor | None, ...]:
        """``(dL/ds_0) . S_0`` summed over streams, for each of ``cell.parameters()``; ``adjoint`` has the structure of the state."""
