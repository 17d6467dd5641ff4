"""The algebra of cells whose units have ``M`` numbers of state each: a unit's ``A_t = dc_t / dc_{t-1}`` is a matrix ``[M, M]``.

    lam_{t,j} = e_{t,j} + sum_m A_{t+1}[m,j] lam_{t+1,m}
    dL/dW_k   = sum_{t,b} (sum_m lam_{t,m} g_{k,m,t}) x_t^T  +  sum_{b,m} lam_{0,m} S_{0,m}
    S_{T,m}   = sum_j P_1[m,j] S_{0,j}  +  sum_t (sum_j P_{t+1}[m,j] g_{k,j,t}) x_t^T        P_t = A_T .. A_t

``Algebra`` says what each function computes. What takes no cell or sensitivity of ours serves any sum of outer products of this form.
"""

from collections.abc import Sequence

import torch

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.rules.scan import (
    FLUSH_EVERY,
    ParameterGradients,
    cache_blocks,
    flush,
    flush_below,
    negligible,
    sum_of_products,
)
from rtrl_core.rules.starts import ListedStarts, Starts
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor


def adjoints(
    immediate: Float[Tensor, "T B M N"], recurrence: Float[Tensor, "T B M M N"], starts: Starts
) -> tuple[Tensor, Tensor]:
    adjoint = torch.empty_like(immediate)
    adjoint[-1] = immediate[-1]
    floor = negligible(immediate)
    for t in range(immediate.shape[0] - 2, -1, -1):
        torch.add(immediate[t], _through(recurrence[t + 1], adjoint[t + 1]), out=adjoint[t])
        if starts.may_begin_at(t + 1):
            starts.replace_at_(adjoint[t], t + 1, immediate[t])
        if floor is not None and t % FLUSH_EVERY == 0:
            flush_below(floor, adjoint[t])
    return adjoint, starts.clear_at_(_through(recurrence[0], adjoint[0]), 0)


def decays(recurrence: Float[Tensor, "T B M M N"]) -> tuple[Tensor, Tensor]:
    """``P_{t+1} = A_T .. A_{t+1}`` for every ``t``, the last of them one, and ``P_1``; returns ``([T B M M N], [B M M N])``.

    They mean something from the last start of a stream on: what is older is forgotten, not multiplied.
    """
    num_states = recurrence.shape[2]
    after = torch.empty_like(recurrence)
    after[-1] = torch.eye(num_states, dtype=recurrence.dtype, device=recurrence.device).unsqueeze(-1)
    for t in range(recurrence.shape[0] - 2, -1, -1):
        after[t] = _product(after[t + 1], recurrence[t + 1])
        if t % FLUSH_EVERY == 0:
            flush(after[t])
    return after, flush(_product(after[0], recurrence[0]))


def weigh(after: Float[Tensor, "T B M M N"], gates: Sequence[Tensor]) -> Float[Tensor, "T B K M N"]:
    """``sum_j P_{t+1}[m,j] g_{k,j,t}``: what a step adds to the sensitivity at the end, per number of its input."""
    if not gates:
        return after.new_zeros(*after.shape[:2], 0, *after.shape[3:])
    return torch.stack([(after * gate.unsqueeze(-3)).sum(-2) for gate in gates], dim=-3)


def advance_outer_products(
    before: Float[Tensor, "B K M N D"],
    total: Float[Tensor, "B M M N"],
    weights: Float[Tensor, "T B K M N"],
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
    out: Float[Tensor, "B K M N D"],
) -> None:
    """``out = P_1 before + sum_t w_t x_t^T``, ``out`` may be ``before``; what lies before the last start of a stream has no part."""
    if starts.forgets:
        inputs = inputs.clone(memory_format=torch.contiguous_format)
        weights = weights.clone(memory_format=torch.contiguous_format)
        starts.forget_older_(weights)
        starts.forget_older_(inputs)
    by_stream, inputs_by_stream = weights.flatten(2).permute(1, 2, 0), inputs.transpose(0, 1)
    for block in cache_blocks(before.shape[0], before[0].nbytes, device=before.device):
        kept = _apply(total[block], before[block])
        if isinstance(starts, ListedStarts):
            begun = [stream - block.start for stream in starts.last if block.start <= stream < block.stop]
            if begun:
                kept[begun] = 0
        else:
            starts.clear_begun_(kept)
        rows = out[block].flatten(1, 3)
        torch.baddbmm(kept.flatten(1, 3), by_stream[block], inputs_by_stream[block], out=rows)


def contract_outer_products(
    adjoint: Float[Tensor, "B M N"], carried: Float[Tensor, "B K M N D"], starts: Starts | None
) -> Float[Tensor, "K N D"]:
    """``sum_{b,m} lam_{b,m} S_{b,m}``; streams that begin at step 0 are not read."""
    if carried.device.type != "cpu" or not isinstance(starts, ListedStarts | None):
        if starts is not None and starts.may_begin_at(0):
            carried = starts.clear_at_(carried.clone(), 0)
        return torch.einsum("bmn,bkmnd->knd", adjoint, carried)
    without: frozenset[int] = frozenset() if starts is None else starts.first
    total = torch.zeros_like(carried[0, :, 0])
    for stream, (weights, rows) in enumerate(zip(adjoint, carried, strict=True)):
        if stream not in without:
            for m, weight in enumerate(weights):
                total.addcmul_(rows[:, m], weight.unsqueeze(-1))
    return total


def gate_adjoints(adjoint: Float[Tensor, "T B M N"], local: LocalDerivatives) -> Float[Tensor, "T B K N"]:
    return torch.stack([(adjoint * gate).sum(-2) for gate in local.gates], dim=-2)


def vector_gradients(adjoint: Float[Tensor, "T B M N"], local: LocalDerivatives) -> Float[Tensor, "P N"]:
    sums = [sum_of_products(adjoint, vector).sum((0, 1)) for vector in local.vectors]
    return torch.stack(sums) if sums else adjoint.new_zeros(0, adjoint.shape[-1])


def step(
    sensitivity: Sensitivity, local: LocalDerivatives, inputs: Float[Tensor, "B D"], is_first: Bool[Tensor, " B"]
) -> Sensitivity:
    matrices = torch.where(is_first[:, None, None, None, None], 0, sensitivity.matrices)
    vectors = torch.where(is_first[:, None, None, None], 0, sensitivity.vectors)
    gates = torch.stack(local.gates[: matrices.shape[1]], dim=1)
    matrices = torch.einsum("bmjn,bkjnd->bkmnd", local.state, matrices) + gates[..., None] * inputs[:, None, None, None]
    vectors = torch.einsum("bmjn,bpjn->bpmn", local.state, vectors)
    for p, vector in enumerate(local.vectors):
        vectors[:, p] += vector
    return Sensitivity(matrices, vectors)


def advance(
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
    out: Sensitivity,
) -> None:
    after, total = decays(local.state)
    weights = weigh(after, local.gates[: sensitivity.matrices.shape[1]])
    advance_outer_products(sensitivity.matrices, total, weights, inputs, starts, out.matrices)
    kept = _apply(total, sensitivity.vectors.unsqueeze(-1)).squeeze(-1)
    starts.clear_begun_(kept)
    added = weigh(after, local.vectors)
    starts.forget_older_(added)
    torch.add(kept, added.sum(0), out=out.vectors)


def contract(
    cell: DiagonalCell, adjoint: Float[Tensor, "B M N"], sensitivity: Sensitivity, starts: Starts | None = None
) -> ParameterGradients:
    matrices = contract_outer_products(adjoint, sensitivity.matrices, starts)
    if cell.is_complex_linear:
        matrices = torch.cat([matrices, contract_outer_products(turned_back(adjoint), sensitivity.matrices, starts)])
    vectors = sensitivity.vectors
    if starts is not None and starts.may_begin_at(0):
        vectors = starts.clear_at_(vectors.clone(), 0)
    return ParameterGradients(matrices, torch.einsum("bmn,bpmn->pn", adjoint, vectors))


def contract_and_advance(
    cell: DiagonalCell,
    adjoint: Float[Tensor, "B M N"],
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
) -> ParameterGradients:
    """One after the other: the products of small matrices, not the memory, are what takes the time."""
    gradients = contract(cell, adjoint, sensitivity, starts)
    advance(sensitivity, local, inputs, starts, sensitivity)
    return gradients


def advance_and_contract(
    cell: DiagonalCell,
    immediate: Float[Tensor, "B M N"],
    sensitivity: Sensitivity,
    local: LocalDerivatives,
    inputs: Float[Tensor, "T B D"],
    starts: Starts,
) -> ParameterGradients:
    advance(sensitivity, local, inputs, starts, sensitivity)
    return contract(cell, immediate, sensitivity)


def _through(recurrence: Float[Tensor, "B M M N"], adjoint: Float[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
    return (recurrence * adjoint.unsqueeze(-2)).sum(1)


def _product(left: Float[Tensor, "B M M N"], right: Float[Tensor, "B M M N"]) -> Float[Tensor, "B M M N"]:
    return (left.unsqueeze(3) * right.unsqueeze(1)).sum(2)


def _apply(matrix: Float[Tensor, "B M M N"], carried: Float[Tensor, "B K M N D"]) -> Float[Tensor, "B K M N D"]:
    result = torch.empty_like(carried)
    for m in range(matrix.shape[1]):
        torch.mul(carried[:, :, 0], matrix[:, None, m, 0, :, None], out=result[:, :, m])
        for j in range(1, matrix.shape[2]):
            result[:, :, m].addcmul_(carried[:, :, j], matrix[:, None, m, j, :, None])
    return result


def turned_back(adjoint: Float[Tensor, "*batch M N"]) -> Float[Tensor, "*batch M N"]:
    """``(lam_2, -lam_1)``: its product with ``S`` is that of ``lam`` with ``i S``."""
    return torch.stack([adjoint[..., 1, :], -adjoint[..., 0, :]], dim=-2)
