"""What public calls demand of their tensors, in one sentence where it is not so.

A wrong shape that broadcasts, or flags that are not bool, would give wrong numbers and no error. A check compares a few attributes
once per call and never waits for a device.
"""

from collections.abc import Iterable
from itertools import combinations, product

import torch

from rtrl_core.shapes import Tensor

FLOATING = "floating point"


def expect(
    name: str,
    tensor: object,
    axes: str,
    shape: tuple[int | None, ...],
    dtype: torch.dtype | str | None,
    device: torch.device,
) -> None:
    """
    Args:
        axes: names of the axes, for the message: ``T B``. A last ``...`` stands for any number of further ones.
        shape: their sizes; ``None`` is any size but 0.
        dtype: ``FLOATING`` is any of them, ``None`` any at all.

    Raises:
        TypeError: if it is no tensor, or of another dtype.
        ValueError: if it is of another shape or on another device.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor [{axes}], got {type(tensor).__name__}")
    if not (tensor.dtype == dtype or dtype is None or (dtype is FLOATING and tensor.is_floating_point())):
        raise TypeError(f"{name} must be {_name(dtype)} [{axes}], got {_name(tensor.dtype)} {list(tensor.shape)}")
    if tensor.shape != shape and not _fits(tensor.shape, shape, axes.endswith("...")):
        wanted = ", ".join([*("any" if size is None else str(size) for size in shape), *["..."] * axes.endswith("...")])
        raise ValueError(f"{name} must be of shape [{axes}] = [{wanted}], got {list(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}, got a tensor on {tensor.device}")


def _fits(actual: torch.Size, shape: tuple[int | None, ...], open_ended: bool) -> bool:
    if not (len(actual) == len(shape) or (open_ended and len(actual) > len(shape))):
        return False
    return all(size > 0 if wanted is None else size == wanted for size, wanted in zip(actual, shape, strict=False))


def _name(dtype: torch.dtype | str | None) -> str:
    return str(dtype).removeprefix("torch.")


def expect_separate(out: Iterable[Tensor], source: Iterable[Tensor], in_place_allowed: bool) -> None:
    """``out`` is contiguous and shares no memory with ``source``, or, if that is allowed, is the very same tensors.

    Raises:
        ValueError: if not.
    """
    out, source = tuple(out), tuple(source)
    if not all(tensor.is_contiguous() for tensor in out):
        raise ValueError("out must be contiguous: make it with sensitivity.empty_like()")
    if in_place_allowed and all(_span(a) == _span(b) for a, b in zip(out, source, strict=True)):
        source = ()
    if any(_overlap(a, b) for a, b in (*product(out, source), *combinations(out, 2))):
        raise ValueError(
            "out must not share memory with the sensitivity that the unroll starts from, which backward still reads: "
            "pass another one, or the same in an unroll of one step"
        )


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte and the one behind the last, for any strides."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _overlap(one: Tensor, other: Tensor) -> bool:
    (start, end), (other_start, other_end) = _span(one), _span(other)
    return start < other_end and other_start < end
