"""Calls of torch whose types torch does not say, said here, so that the rest of the package can be checked strictly."""

from collections.abc import Sequence
from typing import Any

import torch

from rtrl_core.shapes import Tensor

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


def vector_norm(tensor: Tensor, dim: int, order: float = 2.0) -> Tensor:
    return _linalg.vector_norm(tensor, order, dim=dim)
