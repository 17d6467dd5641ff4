"""Calls of torch whose types torch does not say, said here, so that the rest of the package can be checked strictly."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar

import torch

from rtrl_core.shapes import Float, Tensor

F = TypeVar("F", bound=Callable[..., Any])

_linalg: Any = torch.linalg
_compiler: Any = torch.compiler
_random: Any = torch.random
_serialization: Any = torch.serialization


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """A node of the graph; returns what its ``forward`` does. A compiler does not look inside: nodes write into memory that is no
    input of theirs, which a tracer need not see."""
    node: Any = function
    if _compiler.is_compiling():
        return outside_graphs(node.apply)(*arguments)
    return node.apply(*arguments)


def in_own_precision(backward: F) -> F:
    """Decorates the ``backward`` of a node: differentiates once, and computes in the precision of its tensors, whatever autocast the
    caller of ``backward()`` is in."""

    @wraps(backward)
    def run(ctx: Any, *gradients: Any) -> Any:
        device = next(gradient.device for gradient in gradients if isinstance(gradient, Tensor))
        with torch.autocast(device.type, enabled=False):
            return backward(ctx, *gradients)

    once: Any = torch.autograd.function.once_differentiable
    return once(run)


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


def vector_norm(tensor: Tensor, dim: int, order: float = 2.0) -> Tensor:
    return _linalg.vector_norm(tensor, order, dim=dim)


def derivatives_by_rows(outputs: Float[Tensor, "B R"], leaves: Sequence[Tensor]) -> list[Tensor]:
    """``d outputs[b, r] / d leaf[b]`` for all streams and rows at once, ``[B, R, ...]`` for a leaf ``[B, ...]``; streams must not mix."""
    rows = outputs.shape[1]
    one_hot = torch.eye(rows, dtype=outputs.dtype, device=outputs.device)
    one_hot = one_hot.unsqueeze(1).expand(rows, *outputs.shape)
    autograd: Any = torch.autograd
    found = autograd.grad(outputs, list(leaves), one_hot, is_grads_batched=True)
    return [part.transpose(0, 1).contiguous() for part in found]


def outside_graphs(function: F) -> F:
    """``function`` as compiled code calls it: between two graphs, as it is written. Found while compiling only, because asking
    imports the compiler, which takes seconds."""
    return _compiler.disable(function)


def readable_as_data(kind: type) -> None:
    """Has ``torch.load(..., weights_only=True)`` take objects of this type as they are."""
    _serialization.add_safe_globals([kind])
