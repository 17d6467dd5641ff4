"""Unbiased online recurrent optimisation (Tallec & Ollivier, ICLR 2018) by segments: one random outer product per stream.

The Jacobian is carried as ``J ~ alpha beta^T``, right in the mean over random signs ``nu``, one draw per unroll::

    alpha_T = p0 (ds_T/ds_0) alpha_0 + p1 nu         p0 = sqrt(|beta_0| / |(ds_T/ds_0) alpha_0|)
    beta_T  = beta_0 / p0 + v / p1                   p1 = sqrt(|v| / |nu|)        v = nu^T ds_T/dtheta inside the unroll

so for any cell it takes one forward-mode and one backward pass over the unroll, and ``S + |theta|`` numbers. Published step by step
(``T = 1`` here); by segments everything inside the unroll is exact, and the noise is that of the time before alone.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch.func import jvp, vjp, vmap

from rtrl_core import carried
from rtrl_core.cells.unitwise import UnitwiseCell
from rtrl_core.rules import noise
from rtrl_core.rules.base import UnrolledRule
from rtrl_core.rules.end_of_unroll import (
    by_parameter,
    end_of_stream,
    end_of_unroll,
    flat,
    parameters_of,
    without_the_past,
)
from rtrl_core.shapes import Bool, Float, Int, Tensor
from rtrl_core.untyped import pieces, vector_norm


@carried.readable
class OuterProduct(NamedTuple):
    """``ds/dtheta`` in the mean over the signs that were drawn."""

    alpha: Float[Tensor, "B S"]
    beta: Float[Tensor, "B P"]
    digest: Int[Tensor, " B"]
    """From which the next signs are drawn (``noise.py``); 0 at the start of an episode."""


@dataclass(frozen=True, slots=True)
class UORORule(UnrolledRule[OuterProduct]):
    """Carries ``alpha``, ``beta`` and the digest of its noise. The cell has to be one that ``torch.func`` can differentiate.

    Signs are drawn from the digest, the row of the stream, ``seed``, and the bits of inputs, state and weights: a run that goes on
    draws what it would have drawn. The state is taken as it came, also where an episode begins: what is left there of the last one
    tells apart two episodes that look the same.
    """

    name: ClassVar[str] = "uoro"
    carries_sensitivity: ClassVar[bool] = True

    seed: int = 0
    """Of the noise."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")

    def initial(self, cell: Any, batch_size: int) -> OuterProduct:
        alpha = torch.zeros_like(flat(cell.zeros(batch_size)).detach())
        beta = alpha.new_zeros(batch_size, sum(parameter.numel() for parameter in cell.parameters()))
        return OuterProduct(alpha, beta, torch.zeros(batch_size, dtype=torch.int64, device=alpha.device))

    def advance(
        self,
        cell: Any,
        inputs: Float[Tensor, "T B D"],
        state: Any,
        is_first: Bool[Tensor, "T B"],
        sensitivity: OuterProduct,
    ) -> OuterProduct:
        parameters = parameters_of(cell)
        seen = (inputs.transpose(0, 1), is_first.t(), *carried.leaves(state))
        digest = noise.digests(sensitivity.digest, self.seed, seen, parameters.values())
        nu = noise.signs(digest, sensitivity.alpha.shape[1], sensitivity.alpha.dtype)
        inputs, state = without_the_past(inputs, state, is_first)
        alpha, beta, _ = carried.cleared(sensitivity, is_first.any(0))
        pushed = _pushed(cell, parameters, inputs, state, is_first, alpha)
        if isinstance(cell, UnitwiseCell) and len(cell.matrices) == len(parameters):
            pulled = _pulled_through_gates(cell, inputs, state, is_first, nu)
        else:
            pulled = _pulled(cell, parameters, inputs, state, is_first, nu)
        p0, p1 = _balance(beta, pushed), _balance(pulled, nu)
        return OuterProduct(p0 * pushed + p1 * nu, beta / p0 + pulled / p1, digest)

    def credit(self, cell: Any, adjoint: Any, sensitivity: OuterProduct) -> tuple[Tensor, ...]:
        along = (flat(adjoint) * sensitivity.alpha).sum(1)
        return by_parameter(along @ sensitivity.beta, cell)


def _pushed(cell: Any, parameters: Any, inputs: Tensor, state: Any, is_first: Tensor, alpha: Tensor) -> Tensor:
    """``(ds_T/ds_0) alpha`` of every stream."""

    def end(start: Tensor) -> Tensor:
        return end_of_unroll(cell, parameters, inputs, state, is_first, start)

    return jvp(end, (flat(state),), (alpha,))[1]


def _pulled(cell: Any, parameters: Any, inputs: Tensor, state: Any, is_first: Tensor, nu: Tensor) -> Tensor:
    """``nu^T ds_T/dtheta`` of every stream, flat."""

    def of_stream(x: Tensor, first: Tensor, start: Tensor, leaves: Any, nu: Tensor) -> dict[str, Tensor]:
        def end(parameters: dict[str, Tensor]) -> Tensor:
            return end_of_stream(cell, parameters, x, leaves, first, start, state)

        return vjp(end, parameters)[1](nu)[0]

    leaves = tuple(carried.leaves(state))
    gradients = vmap(of_stream, in_dims=(1, 1, 0, 0, 0))(inputs, is_first, flat(state), leaves, nu)
    return torch.cat([gradients[name].flatten(1) for name in parameters], dim=-1)


def _pulled_through_gates(cell: UnitwiseCell, inputs: Tensor, state: Any, is_first: Tensor, nu: Tensor) -> Tensor:
    """The same where parameters enter through gate inputs alone: their adjoints by one backward pass for all streams together, and one
    product with the sources for each stream."""
    num_gates = sum(len(matrix) for matrix in cell.matrices)
    nothing = inputs.new_zeros(*inputs.shape[:2], num_gates, cell.num_units, requires_grad=True)
    sources: list[tuple[Tensor, ...]] = []
    now = state
    with torch.enable_grad():
        for x, first, added in zip(inputs, is_first, nothing, strict=True):
            rows = tuple(carried.leaves(carried.cleared(now, first)))
            sources.append(cell.sources(x, rows[-1]))
            gates = (gate + extra for gate, extra in zip(cell.gates(sources[-1]), added.unbind(1), strict=True))
            now = carried.rebuild(state, cell.update(rows, tuple(gates)))
        by_gates = torch.autograd.grad(flat(now), nothing, nu)[0]
    of_groups = pieces(by_gates, [len(matrix) for matrix in cell.matrices], 2)
    products = [
        torch.bmm(adjoint.flatten(2).permute(1, 2, 0), torch.stack(source).detach().transpose(0, 1)).flatten(1)
        for adjoint, source in zip(of_groups, zip(*sources, strict=True), strict=True)
    ]
    return torch.cat(products, dim=-1)


def _balance(large: Float[Tensor, "B X"], small: Float[Tensor, "B Y"]) -> Float[Tensor, "B 1"]:
    """``sqrt(|large| / |small|)``, which makes the variance least; 1 where one of them is zero, as any number then would do."""
    of_large, of_small = vector_norm(large, dim=1), vector_norm(small, dim=1)
    nothing = (of_large == 0) | (of_small == 0)
    return torch.where(nothing, 1.0, of_large / of_small).sqrt().unsqueeze(1)
