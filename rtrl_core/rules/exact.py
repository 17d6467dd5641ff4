"""What the exact rules for diagonal cells share: they carry the whole sensitivity, and are one autograd node each."""

from typing import ClassVar

import torch

from rtrl_core.arguments import expect_separate
from rtrl_core.cells.base import DiagonalCell
from rtrl_core.rules.base import DiagonalRule
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import apply


class ExactRule(DiagonalRule[Sensitivity]):
    """Backward through the returned states leaves the untruncated gradient in the parameters."""

    carries_sensitivity: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    node: ClassVar[type[torch.autograd.Function]]
    """``(cell, inputs, matrices, vectors, state, is_first, sensitivity, out) -> states``; it overwrites ``out``."""

    def zeros(
        self, cell: DiagonalCell, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"], batch_size: int
    ) -> Sensitivity:
        carried = matrices.detach()[: cell.carried_gates]
        return Sensitivity.zeros(batch_size, carried, vectors.detach(), num_states=cell.num_states)

    def scan(
        self,
        cell: DiagonalCell,
        inputs: Float[Tensor, "T B D"],
        matrices: Float[Tensor, "K N D"],
        vectors: Float[Tensor, "P N"],
        state: Float[Tensor, "B ... N"],
        is_first: Bool[Tensor, "T B"],
        sensitivity: Sensitivity,
        out: Sensitivity | None = None,
    ) -> tuple[Float[Tensor, "T B ... N"], Sensitivity]:
        """The gradient of ``inputs`` is truncated at the start of the unroll, as in the paper.

        Raises:
            ValueError: if ``out`` overlaps where it must not.
        """
        if out is not None:
            expect_separate(out, sensitivity, in_place_allowed=inputs.shape[0] == 1)
        advanced = sensitivity.empty_like() if out is None else out
        return apply(self.node, cell, inputs, matrices, vectors, state, is_first, sensitivity, advanced), advanced
