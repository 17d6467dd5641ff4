"""Calls of torch whose types torch does not say, said here, so that the rest of the package can be checked strictly."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from rtrl_core.shapes import Tensor

F = TypeVar("F", bound=Callable[..., Any])

_linalg: Any = torch.linalg
_compiler: Any = torch.compiler
_serialization: Any = torch.serialization


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """A node of the graph; returns what its ``forward`` does. A compiler does not look inside: nodes write into memory that is no
    input of theirs, which a tracer need not see."""
    node: Any = function
    if _compiler.is_compiling():
        return outside_graphs(node.apply)(*arguments)
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


def outside_graphs(function: F) -> F:
    """``function`` as compiled code calls it: between two graphs, as it is written. Found while compiling only, because asking
    imports the compiler, which takes seconds."""
    return _compiler.disable(function)


def readable_as_data(kind: type) -> None:
    """Has ``torch.load(..., weights_only=True)`` take objects of this type as they are."""
    _serialization.add_safe_globals([kind])
