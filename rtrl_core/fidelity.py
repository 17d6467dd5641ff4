"""How good the credit is that a carried sensitivity gives: against one computed from the start of the episode, and by an exact rule.

Credit older than an unroll is ``C = lam_0 . S_0`` (``rules/base.py``), whatever ``S_0`` is. ``lam_0`` is the adjoint of the carried state
``c_0`` under the present weights: the same for every ``S_0``, so that what is compared is ``S_0`` alone, in the only directions that count.
"""

from copy import deepcopy
from typing import NamedTuple

import torch

from rtrl_core import carried
from rtrl_core.cores import Core, CoreState, DiagonalCore, GatedCore, UnrolledCore
from rtrl_core.rules import RULES, LearningRule
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import forked_generators, vector_norm


class Fidelity(NamedTuple):
    """Of credit, beside what it should be: 1 and 0 if it is that."""

    cosine: float
    error: float
    """Norm of the difference over the norm of what it should be."""


def compare(found: Float[Tensor, " parameters"], wanted: Float[Tensor, " parameters"]) -> Fidelity | None:
    """``None`` where nothing is wanted, or a number is not finite."""
    sizes = [float(vector_norm(vector, 0)) for vector in (found, wanted, found - wanted)]
    if not sizes[1] > 0 or not torch.tensor(sizes).isfinite().all():
        return None
    cosine = float(found @ wanted) / (sizes[0] * sizes[1]) if sizes[0] > 0 else 0.0
    return Fidelity(min(1.0, max(-1.0, cosine)), sizes[2] / sizes[1])


def older_credit(
    core: Core,
    inputs: Float[Tensor, "T B D"],
    state: CoreState,
    is_first: Bool[Tensor, "T B"],
    adjoint: Float[Tensor, "T B H"],
) -> Float[Tensor, " parameters"]:
    """``lam_0 . S_0`` summed over streams, flat: the gradient with the sensitivity of ``state``, less that without.

    Args:
        core: which advances nothing in place; in float64, for of two gradients only the difference is kept.
        adjoint: gradient of the loss by the core's outputs.
    """
    without = state._replace(sensitivity=carried.map_leaves(torch.zeros_like, state.sensitivity))
    gradients = [_gradient(core, inputs, start, is_first, adjoint) for start in (state, without)]
    return gradients[0] - gradients[1]


def _gradient(core: Core, inputs: Tensor, state: CoreState, is_first: Tensor, adjoint: Tensor) -> Tensor:
    parameters = [parameter for parameter in core.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        outputs, _ = core(inputs, state, is_first)
    found = torch.autograd.grad(outputs, parameters, adjoint, materialize_grads=True, allow_unused=True)
    return torch.cat([part.flatten() for part in found])


def exact_twin(core: Core, largest_bytes: int) -> Core | None:
    """The same core under an exact rule, its weights to be loaded; ``None`` if its rule is exact, or none is known that is.

    Args:
        largest_bytes: what an exact rule for a cell that is not element-wise may carry for a stream: each step goes over all of it.
    """
    with forked_generators():  # to build one draws its first weights
        twin = _under_exact_rule(core, largest_bytes)
    example = next(core.parameters())
    return None if twin is None else twin.to(example.device, example.dtype)


def _under_exact_rule(core: Core, largest_bytes: int) -> Core | None:
    if isinstance(core, GatedCore):
        inside = _under_exact_rule(core.core, largest_bytes)
        return None if inside is None else GatedCore(inside)
    if isinstance(core, DiagonalCore):
        rule = _exact_rule(core.rule, "segment")
        return None if rule is None else DiagonalCore(core.input_size, core.num_units, core.cell, rule)
    if isinstance(core, UnrolledCore):
        rule = _exact_rule(core.rule, "dense")
        twin = None if rule is None else UnrolledCore(deepcopy(core.cell), rule)
        if twin is None or carried.size_bytes(deepcopy(twin).to("meta").initial_state(1)) > largest_bytes:
            return None
        return twin
    return None


def _exact_rule(present: LearningRule, name: str) -> LearningRule | None:
    return None if present.exact or name not in RULES else RULES[name]()
