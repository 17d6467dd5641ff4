"""The oracle of every learning rule: autograd through whole episodes, step by step, with nothing carried and nothing clever."""

import torch

from rtrl_core import RULES, DiagonalCell, DiagonalRule, RecurrentCell, UnrolledRule

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
    """Gradients of ``sum(weights * sin(c))`` over the whole sequence by the matrices and the vectors, and the states ``[T, B, N]``."""
    matrices, vectors = matrices.detach().requires_grad_(), vectors.detach().requires_grad_()
    state = inputs.new_zeros(inputs.shape[1], matrices.shape[1])
    states = []
    for x, first in zip(inputs, is_first, strict=True):
        state = torch.where(first[:, None], torch.zeros_like(state), state)
        gates = torch.stack([x @ matrix.t() for matrix in matrices], dim=1)
        state = cell.forward(state, gates, vectors)
        states.append(state)
    stacked = torch.stack(states)
    (weights * stacked.sin()).sum().backward()
    assert matrices.grad is not None
    assert vectors.grad is not None
    return matrices.grad, vectors.grad, stacked.detach()
