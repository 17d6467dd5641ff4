"""Learning rules by name: how the gradient of an unroll reaches the parameters of a diagonal cell.

Every rule is one function, ``scan(cell, inputs, matrices, vectors, state, is_first, sensitivity, out)``: the states of an
unroll under autograd, and the sensitivity at its end (see ``segment.scan`` for the contract).
"""

from collections.abc import Callable
from dataclasses import dataclass

from rtrl_core.rules import reference, segment, tbptt
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Tensor


@dataclass(frozen=True, slots=True)
class LearningRule:
    name: str
    scan: Callable[..., tuple[Tensor, Sensitivity | None]]
    carries_sensitivity: bool


RULES: dict[str, LearningRule] = {
    "segment": LearningRule("segment", segment.scan, carries_sensitivity=True),
    "reference": LearningRule("reference", reference.scan, carries_sensitivity=True),
    "tbptt": LearningRule("tbptt", tbptt.scan, carries_sensitivity=False),
}

__all__ = ["RULES", "LearningRule"]
