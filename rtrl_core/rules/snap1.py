"""SnAp-1 (Menick et al., ICLR 2021) by segments: of the Jacobian of each step only what stays inside a unit is carried.

Exact RTRL of a dense cell carries ``J_t = D_t J_{t-1} + I_t`` with all of ``D_t = ds_t/ds_{t-1}``. Here ``D_t`` is replaced by the
block ``A_t`` ``[M, M]`` of each unit, so that ``S`` has ``M`` numbers per parameter and is advanced as that of a diagonal cell
(``blocks.py``), the source ``[x_t, h_{t-1}, 1]`` in the place of ``x_t``. Exact where the recurrent matrices are diagonal.

By segments the approximation is smaller than step by step: inside the unroll backpropagation is exact, and ``dL/ds_0`` goes through all
of ``D_1 .. D_T``; only what ``S_0`` says of the time before is approximate.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from rtrl_core import carried
from rtrl_core.cells.base import LocalDerivatives
from rtrl_core.cells.unitwise import UnitwiseCell
from rtrl_core.rules import blocks
from rtrl_core.rules.base import UnrolledRule
from rtrl_core.rules.starts import Starts
from rtrl_core.shapes import Bool, Float, Tensor


class UnrollTrace(NamedTuple):
    """What an unroll of a ``UnitwiseCell`` leaves behind, outside autograd."""

    sources: tuple[Tensor, ...]
    """Of each group of gates, ``[T, B, E]``."""
    local: LocalDerivatives
    """``[T, B, M, M, N]`` and, for each gate, ``[T, B, M, N]``."""


@dataclass(frozen=True, slots=True)
class SnAp1Rule(UnrolledRule[tuple[Tensor, ...]]):
    """``S_t = A_t S_{t-1} + g_t [x_t, h_{t-1}, 1]^T``, for each group of gates ``[B, K, M, N, E]``."""

    name: ClassVar[str] = "snap1"
    carries_sensitivity: ClassVar[bool] = True
    cells: ClassVar[type] = UnitwiseCell

    def further_misfit(self, cell: UnitwiseCell) -> str | None:
        if len(list(cell.parameters())) == len(cell.matrices):
            return None
        return f"rule {self.name} knows the matrices of a cell, but {type(cell).__name__} has other parameters too"

    def initial(self, cell: UnitwiseCell, batch_size: int) -> tuple[Tensor, ...]:
        return tuple(
            matrix.detach().new_zeros(batch_size, matrix.shape[0], cell.num_states, *matrix.shape[1:])
            for matrix in cell.matrices
        )

    @torch.no_grad()
    def advance(
        self,
        cell: UnitwiseCell,
        inputs: Float[Tensor, "T B D"],
        state: Any,
        is_first: Bool[Tensor, "T B"],
        sensitivity: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        starts, trace = Starts.of(is_first), trace_unroll(cell, inputs, state, is_first)
        recurrence = starts.cleared_rows(self.recurrence(cell, trace.local))
        after, total = blocks.decays(recurrence)
        advanced: list[Tensor] = []
        first = 0
        for before, source in zip(sensitivity, trace.sources, strict=True):
            gates = trace.local.gates[first : first + before.shape[1]]
            out = torch.empty_like(before)
            blocks.advance_outer_products(before, total, blocks.weigh(after, gates), source, starts, out)
            advanced.append(out)
            first += before.shape[1]
        return tuple(advanced)

    def recurrence(self, cell: UnitwiseCell, local: LocalDerivatives) -> Float[Tensor, "T B M M N"]:
        """What stands for the Jacobian of a step, in memory of its own."""
        return cell.diagonal_blocks(local)

    def credit(self, cell: UnitwiseCell, adjoint: Any, sensitivity: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        of_rows = torch.stack(list(carried.leaves(adjoint)), dim=1)
        return tuple(blocks.contract_outer_products(of_rows, part, None) for part in sensitivity)


def trace_unroll(
    cell: UnitwiseCell, inputs: Float[Tensor, "T B D"], state: Any, is_first: Bool[Tensor, "T B"]
) -> UnrollTrace:
    """Runs the cell once more, step by step, and differentiates all steps at once."""
    before: list[tuple[Tensor, ...]] = []
    sources: list[tuple[Tensor, ...]] = []
    gates: list[tuple[Tensor, ...]] = []
    rows = tuple(carried.leaves(state))
    for x, first in zip(inputs, is_first, strict=True):
        rows = carried.cleared(rows, first)
        before.append(rows)
        sources.append(cell.sources(x, rows[-1]))
        gates.append(cell.gates(sources[-1]))
        rows = cell.update(rows, gates[-1])
    local = cell.derivatives(_over_time(before), _over_time(gates))
    return UnrollTrace(_over_time(sources), local)


def _over_time(steps: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(parts) for parts in zip(*steps, strict=True))
