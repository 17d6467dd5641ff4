"""What any other recurrent cell has to state: its state, its parameters and one differentiable step."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from rtrl_core.options import NoOptions
from rtrl_core.shapes import Float, Tensor


class RecurrentCell(nn.Module, ABC):
    """A differentiable recurrence of any kind: dense, or with several states per unit. Its parameters are those of the module.

    Args:
        input_size: D.
        num_units: N; what it counts is the cell's business.
        options: an instance of ``Options``, the cell's own dataclass; ``None`` is its defaults. A cell without options of its own need
            not take them.
    """

    Options: ClassVar[type] = NoOptions
    output_size: int

    def __init__(self, input_size: int, num_units: int, options: Any = None) -> None:
        super().__init__()
        if input_size < 1 or num_units < 1:
            raise ValueError(f"input_size and num_units must be at least 1, got {input_size} and {num_units}")
        self.options = self.Options() if options is None else options
        self.input_size = input_size
        self.num_units = num_units
        self.output_size = num_units

    @abstractmethod
    def zeros(self, batch_size: int) -> Any:
        """The state at the start of an episode, where the parameters are: zeros ``[B, ...]``, or nested tuples of them."""

    @abstractmethod
    def forward(self, inputs: Float[Tensor, "B D"], state: Any) -> Any:
        """The next state, of the same structure. Streams do not see each other, nothing is changed in place, nothing is random."""

    @abstractmethod
    def output(self, state: Any) -> Float[Tensor, "B H"]:
        """What the heads read of a state, ``output_size`` numbers per stream."""
