"""Calls of torch whose types torch does not say, said here, so that the rest of the package can be checked strictly."""

from collections.abc import Sequence
from typing import Any

import torch

from rtrl_core.shapes import Float, Tensor

_linalg: Any = torch.linalg


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """A node of the graph; returns what its ``forward`` does."""
    node: Any = function
    return node.apply(*arguments)


def numbers(tensor: Tensor) -> list[Any]:
    """``tolist`` of a tensor with at least one axis."""
    any_tensor: Any = tensor
    return any_tensor.tolist()


def pieces(tensor: Tensor, sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """``split``."""
    any_tensor: Any = tensor
    return any_tensor.split(list(sizes), dim)


def vector_norm(tensor: Tensor, dim: int) -> Tensor:
    return _linalg.vector_norm(tensor, dim=dim)


def derivatives_by_rows(outputs: Float[Tensor, "B R"], leaves: Sequence[Tensor]) -> list[Tensor]:
    """``d outputs[b, r] / d leaf[b]`` for all streams and rows at once, ``[B, R, ...]`` for a leaf ``[B, ...]``; streams must not mix."""
    rows = outputs.shape[1]
    one_hot = torch.eye(rows, dtype=outputs.dtype, device=outputs.device)
    one_hot = one_hot.unsqueeze(1).expand(rows, *outputs.shape)
    autograd: Any = torch.autograd
    found = autograd.grad(outputs, list(leaves), one_hot, is_grads_batched=True)
    return [part.transpose(0, 1).contiguous() for part in found]
