"""One step of a network while it acts: from what it sees to core inputs, policy and value, and what its core carries on."""

from typing import Any, NamedTuple

from actors.stem import Stem, StepInput
from rtrl_core import PolicyNetwork, PolicyOutput
from rtrl_core.shapes import Float, Tensor


class Acted(NamedTuple):
    """Tensors of its own."""

    inputs: Float[Tensor, "B D"]
    """Of the core."""
    output: PolicyOutput
    cell: Any
    """Of the core, after the step."""


class Acting:
    """
    Args:
        stem: of ``network``; it keeps of each step of an unroll what its own backward pass will need.
    """

    def __init__(self, network: PolicyNetwork, stem: Stem) -> None:
        self.network, self.stem = network, stem

    def act(self, step: StepInput, cell: Any) -> Acted:
        """The next step of the unroll. ``cell`` is the core's before it."""
        inputs = self.stem.inputs(step)
        output, cell = self.network.act(inputs, cell, step.is_first)
        return Acted(inputs, output, cell)

    def look(self, step: StepInput, cell: Any) -> PolicyOutput:
        """At a step that is no part of the unroll."""
        return self.network.act(self.stem.look(step), cell, step.is_first)[0]
