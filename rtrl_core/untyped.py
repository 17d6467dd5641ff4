"""Calls of torch whose types torch does not say, said here, so that the rest of the package can be checked strictly."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from rtrl_core.shapes import Tensor

_linalg: Any = torch.linalg
_random: Any = torch.random


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


def forked_generators(devices: Iterable[torch.device] = ()) -> AbstractContextManager[None]:
    """Whatever is drawn inside, torch's generators of the CPU and of these devices go on as if it had not been."""
    return _random.fork_rng([device for device in devices if device.type != "cpu"])


def vector_norm(tensor: Tensor, dim: int) -> Tensor:
    return _linalg.vector_norm(tensor, dim=dim)
