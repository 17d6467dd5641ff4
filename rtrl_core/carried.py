"""What is carried from unroll to unroll: tensors whose first axis is the stream, or nested tuples of them. To its carrier it is opaque.

A cell decides what its state consists of, a learning rule what its sensitivity consists of; actor, evaluation and checkpoint select,
reset, save and load them with these functions and never look inside. Named tuples keep their types.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import torch

from rtrl_core.shapes import Bool, Float, Int, Shaped, Tensor
from rtrl_core.untyped import numbers, readable_as_data, vector_norm

Carried: TypeAlias = Tensor | tuple[Any, ...] | None
"""The elements of a tuple are again such."""
C = TypeVar("C", bound=Carried)
K = TypeVar("K", bound=type)


def readable(kind: K) -> K:
    """Decorates a named tuple that is carried: ``torch.load(..., weights_only=True)`` reads a state with such parts, once its module
    is imported. It is fields and nothing that reading would call."""
    readable_as_data(kind)
    return kind


def leaves(carried: Carried) -> Iterator[Tensor]:
    """Its tensors, in order."""
    if isinstance(carried, Tensor):
        yield carried
    elif carried is not None:
        for part in carried:
            yield from leaves(part)


def map_leaves(function: Callable[[Tensor], Tensor], carried: C) -> C:
    """The same structure with other tensors."""
    return rebuild(carried, map(function, leaves(carried)))


def rebuild(structure: C, tensors: Iterable[Tensor]) -> C:
    """``structure`` with these tensors in the place of its own, in the order of ``leaves``."""
    return _rebuilt(structure, iter(tensors))


def _rebuilt(part: Any, rest: Iterator[Tensor]) -> Any:
    """A function of its own: one that names itself inside another is a cycle, which would keep the tensors until Python looks for such."""
    if part is None:
        return None
    if isinstance(part, Tensor):
        return next(rest)
    parts = [_rebuilt(element, rest) for element in part]
    return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)


def select(carried: C, streams: Bool[Tensor, " B"] | Int[Tensor, " S"]) -> C:
    """A copy with these streams only: those that are true, or those of these numbers, in their order."""
    return map_leaves(lambda tensor: tensor[streams], carried)


def joined(parts: Sequence[C]) -> C:
    """The streams of several of the same structure, one after the other."""
    return rebuild(parts[0], [torch.cat(tensors) for tensors in zip(*map(leaves, parts), strict=True)])


def reset_(carried: Carried, streams: Bool[Tensor, " B"]) -> None:
    """Zeroes the named streams in place, whatever they held, NaN and infinity too; the others are neither read nor written."""
    index = streams.nonzero().squeeze(1)
    for tensor in leaves(carried):
        tensor.index_fill_(0, index, 0)


def cleared(carried: C, streams: Bool[Tensor, " B"]) -> C:
    """A copy in which the named streams are zero, whatever they held."""
    return map_leaves(lambda tensor: tensor.masked_fill(along(streams, tensor), 0), carried)


def finite_streams(carried: Carried) -> Bool[Tensor, " B"] | None:
    """Streams that hold finite numbers only; ``None`` where nothing is carried."""
    norms = stream_norms(carried)
    return None if norms is None else norms.isfinite()


def stream_norms(carried: Carried) -> Float[Tensor, " B"] | None:
    """Norm of all that a stream carries, in float64; finite if and only if every number of the stream is. ``None`` for nothing.

    Counts and flags have no part in it. One read at the speed of memory; where the squares overflow (1e19 in float32) the stream is
    read again, scaled.
    """
    parts = [tensor for tensor in leaves(carried) if tensor.is_floating_point() or tensor.is_complex()]
    if not parts:
        return None
    norms = _frobenius(parts)
    for stream in numbers((~norms.isfinite()).nonzero().squeeze(1)):
        rows = [part[stream : stream + 1] for part in parts if part[0].numel()]
        largest = torch.stack([row.abs().max() for row in rows]).max()
        scaled = _frobenius([row / largest for row in rows])
        norms[stream] = (scaled[0] * largest).clamp(max=torch.finfo(torch.float64).max)
    return norms


def size_bytes(carried: Carried) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in leaves(carried))


def to(carried: C, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> C:
    """On this device; of this type what is floating point, counts and flags keep theirs."""
    return map_leaves(
        lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None), carried
    )


def detached(carried: C) -> C:
    return map_leaves(lambda tensor: tensor.detach(), carried)


def save(carried: Carried) -> Any:
    """Copies of its tensors in nested dictionaries, by the names of the fields, or by their numbers; nothing is an empty one.

    Copies, because a sensitivity may be advanced in place before whoever asked has written them anywhere.
    """
    if carried is None:
        return {}
    if isinstance(carried, Tensor):
        return carried.detach().clone()
    names = getattr(carried, "_fields", [str(number) for number in range(len(carried))])
    return {name: save(part) for name, part in zip(names, carried, strict=True)}


def load(structure: C, saved: Any) -> C:
    """The inverse of ``save``, for something of this structure, on its devices; it shares no memory with what was saved.

    Raises:
        ValueError: if what was saved is of another structure or other shapes.
    """
    found = list(_saved_leaves(structure, saved))
    for ours, theirs in zip(leaves(structure), found, strict=True):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise ValueError(
                f"expected {ours.dtype} {list(ours.shape)} in a saved state, got {theirs.dtype} {list(theirs.shape)}"
            )
    return rebuild(
        structure, [theirs.to(ours.device, copy=True) for ours, theirs in zip(leaves(structure), found, strict=True)]
    )


def _saved_leaves(structure: Any, saved: Any) -> Iterator[Tensor]:
    if structure is None:
        return
    if isinstance(structure, Tensor):
        if not isinstance(saved, Tensor):
            raise ValueError(f"expected a tensor in a saved state, got {type(saved).__name__}")
        yield saved
        return
    names = getattr(structure, "_fields", [str(number) for number in range(len(structure))])
    if not isinstance(saved, dict) or any(
        name not in saved for name, part in zip(names, structure, strict=True) if part is not None
    ):
        raise ValueError(f"expected {', '.join(names)} in a saved state")
    entries = cast(dict[str, Any], saved)
    for name, part in zip(names, structure, strict=True):
        yield from _saved_leaves(part, entries.get(name))


def along(mask: Bool[Tensor, "*rows"], values: Shaped[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """With as many axes as ``values``, whose first ones it is of."""
    return mask.view(mask.shape + (1,) * (values.dim() - mask.dim()))


def _frobenius(parts: Iterable[Tensor]) -> Float[Tensor, " B"]:
    """Norm over all axes but the first, and over the parts together."""
    norms = [vector_norm(part.reshape(len(part), -1), dim=1).double() for part in parts]
    return vector_norm(torch.stack(norms), dim=0)
