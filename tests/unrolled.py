"""The oracle of every learning rule: autograd through whole episodes, step by step, with nothing carried and nothing clever."""

import pytest
import torch

from rtrl_core import CELLS, RULES, DiagonalCell, DiagonalRule, RecurrentCell, UnrolledRule, carried

KINDS_OF_CELLS = ("elstm", "indrnn", "lru", "rtu", "slstm")
"""One of each kind: closed form, forward mode, complex and linear, several numbers of state, scales."""
EVERY_CELL = [name if name in KINDS_OF_CELLS else pytest.param(name, marks=pytest.mark.soak) for name in CELLS]
"""The other ones of a kind in the long tests only."""
DIAGONAL_RULES = [name for name, rule in RULES.items() if issubclass(rule, DiagonalRule)]


def rules_for(cell: RecurrentCell) -> list[str]:
    """The names of those rules of ours that fit a cell."""
    rules = [rule() for rule in RULES.values() if issubclass(rule, UnrolledRule)]
    return [rule.name for rule in rules if rule.misfit(cell) is None]


def full_gradient(
    cell: DiagonalCell,
    matrices: torch.Tensor,
    vectors: torch.Tensor,
    inputs: torch.Tensor,
    is_first: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of ``sum(weights * sin(output))`` over the whole sequence by matrices and vectors, and the outputs ``[T, B, H]``."""
    matrices, vectors = matrices.detach().requires_grad_(), vectors.detach().requires_grad_()
    state = inputs.new_zeros(inputs.shape[1], *cell.state_shape(matrices.shape[1]))
    outputs = []
    for x, first in zip(inputs, is_first, strict=True):
        state = carried.cleared(state, first)
        gates = torch.stack([x @ matrix.t() for matrix in matrices], dim=1)
        state = cell.forward(state, gates, vectors)
        outputs.append(cell.output(state))
    stacked = torch.stack(outputs)
    (weights * stacked.sin()).sum().backward()
    assert matrices.grad is not None
    assert vectors.grad is not None
    return matrices.grad, vectors.grad, stacked.detach()
