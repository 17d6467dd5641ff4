"""Full RTRL (Williams & Zipser 1989) by segments, for any cell of a few units: the whole Jacobian ``J = ds/dtheta`` of each stream.

    J_T = (ds_T/ds_0) J_0 + ds_T/dtheta inside the unroll

It takes ``S x |theta|`` numbers per stream, and a backward pass of the unroll for each number of state: an oracle, not a way to train.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.func import jacrev, vmap

from rtrl_core import carried
from rtrl_core.rules.base import UnrolledRule
from rtrl_core.rules.end_of_unroll import by_parameter, end_of_stream, flat, parameters_of, without_the_past
from rtrl_core.shapes import Bool, Float, Tensor

LARGEST_BYTES = 256_000_000
"""Of the Jacobian of one stream."""


@dataclass(frozen=True, slots=True)
class DenseRule(UnrolledRule[Tensor]):
    """Carries the Jacobian ``[B, S, |theta|]``. The cell has to be one that ``torch.func`` can differentiate."""

    name: ClassVar[str] = "dense"
    carries_sensitivity: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def further_misfit(self, cell: Any) -> str | None:
        numbers = flat(cell.zeros(1)).shape[1] * sum(parameter.numel() for parameter in cell.parameters())
        size_bytes = numbers * next(cell.parameters()).element_size()
        if size_bytes <= LARGEST_BYTES:
            return None
        return (
            f"rule dense would carry {size_bytes / 1e6:,.0f} MB for each stream of a {type(cell).__name__} of {cell.num_units} units and "
            f"{cell.input_size} inputs, at most {LARGEST_BYTES / 1e6:.0f} MB are expected, which fewer units (network.num_units) need"
        )

    def initial(self, cell: Any, batch_size: int) -> Tensor:
        start = flat(cell.zeros(batch_size)).detach()
        return start.new_zeros(*start.shape, sum(parameter.numel() for parameter in cell.parameters()))

    def advance(
        self,
        cell: Any,
        inputs: Float[Tensor, "T B D"],
        state: Any,
        is_first: Bool[Tensor, "T B"],
        sensitivity: Float[Tensor, "B S P"],
    ) -> Float[Tensor, "B S P"]:
        def end(parameters: dict[str, Tensor], start: Tensor, x: Tensor, first: Tensor, leaves: Any) -> Tensor:
            return end_of_stream(cell, parameters, x, leaves, first, start, state)

        jacobians = vmap(jacrev(end, argnums=(0, 1)), in_dims=(None, 0, 1, 1, 0))
        parameters = parameters_of(cell)
        inputs, state = without_the_past(inputs, state, is_first)
        by_parameters, by_start = jacobians(parameters, flat(state), inputs, is_first, tuple(carried.leaves(state)))
        inside = torch.cat([by_parameters[name].flatten(2) for name in parameters], dim=-1)
        return torch.baddbmm(inside, by_start, carried.cleared(sensitivity, is_first.any(0)))

    def credit(self, cell: Any, adjoint: Any, sensitivity: Float[Tensor, "B S P"]) -> tuple[Tensor, ...]:
        return by_parameter(torch.einsum("bs,bsp->p", flat(adjoint), sensitivity), cell)
