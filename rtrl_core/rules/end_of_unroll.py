"""The state at the end of an unroll as a function of parameters and of the state at its start, to be differentiated by ``torch.func``.

For rules that treat a cell as a black box. The numbers of a state that can be differentiated are one vector ``[B, S]`` here; counts
and flags among its tensors go along as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from rtrl_core import carried
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import pieces

Parameters = dict[str, Tensor]


def parameters_of(cell: nn.Module) -> Parameters:
    return {name: parameter.detach() for name, parameter in cell.named_parameters()}


def flat(state: Any) -> Float[Tensor, "B S"]:
    """The floating-point numbers of a state, or of an adjoint of one."""
    return torch.cat(
        [tensor.reshape(len(tensor), -1) for tensor in carried.leaves(state) if tensor.is_floating_point()], dim=-1
    )


def with_flat(state: Any, numbers: Float[Tensor, "B S"]) -> Any:
    """``state`` with these floating-point numbers."""
    tensors = list(carried.leaves(state))
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    parts = iter(pieces(numbers, [tensor[0].numel() for tensor in floating], -1))
    return carried.rebuild(
        state, [next(parts).reshape(each.shape) if each.is_floating_point() else each for each in tensors]
    )


def without_the_past(
    inputs: Float[Tensor, "T B D"], state: Any, is_first: Bool[Tensor, "T B"]
) -> tuple[Float[Tensor, "T B D"], Any]:
    """Inputs and state in which all that lies before the last start of a stream is zero: ``s_T`` is the same, and so is its gradient, but
    zero times what is not finite is not zero."""
    starts = is_first.long()
    begins_later = starts.flip(0).cumsum(0).flip(0) > starts
    return inputs.masked_fill(begins_later.unsqueeze(-1), 0), carried.cleared(state, is_first.any(0))


def end_of_unroll(
    cell: nn.Module,
    parameters: Parameters,
    inputs: Float[Tensor, "T B D"],
    state: Any,
    is_first: Bool[Tensor, "T B"],
    start: Float[Tensor, "B S"],
) -> Float[Tensor, "B S"]:
    """``s_T`` of all streams; ``start`` are the numbers of ``s_0``, whatever those of ``state`` are."""
    now = with_flat(state, start)
    for x, first in zip(inputs, is_first, strict=True):
        now = functional_call(cell, parameters, (x, carried.cleared(now, first)))
    return flat(now)


def end_of_stream(
    cell: nn.Module,
    parameters: Parameters,
    inputs: Float[Tensor, "T D"],
    leaves: Sequence[Tensor],
    is_first: Bool[Tensor, " T"],
    start: Float[Tensor, " S"],
    structure: Any,
) -> Float[Tensor, " S"]:
    """The same for one stream, for ``torch.func.vmap``.

    Args:
        leaves: the tensors of the state of the stream.
        structure: a state that they are put together as.
    """
    state = carried.rebuild(structure, [leaf.unsqueeze(0) for leaf in leaves])
    ends = end_of_unroll(cell, parameters, inputs.unsqueeze(1), state, is_first.unsqueeze(1), start.unsqueeze(0))
    return ends.squeeze(0)


def by_parameter(gradient: Float[Tensor, " P"], cell: nn.Module) -> tuple[Tensor, ...]:
    """A flat gradient cut into those of ``cell.parameters()``."""
    parameters = list(cell.parameters())
    parts = pieces(gradient, [parameter.numel() for parameter in parameters])
    return tuple(part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True))
