"""What a replay is made of, and how it is saved: as a few tensors, however many chunks there are."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch

from actors.trajectory import Trajectory
from rtrl_core import carried
from rtrl_core.shapes import Float, Tensor

LARGEST_DIM = 8
"""Axes of a tensor, at the most."""
LARGEST_NUMBER = 2**62


class Kept(NamedTuple):
    trajectory: Trajectory
    inputs: Float[Tensor, "P B D"] | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """P steps of B streams: a contribution."""

    number: int
    """In the order in which they came."""
    previous: int | None
    """Number of the chunk before it, in its streams."""
    policy_version: int
    kept: Kept

    @property
    def trajectory(self) -> Trajectory:
        return self.kept.trajectory

    @property
    def inputs(self) -> Float[Tensor, "P B D"] | None:
        return self.kept.inputs

    @property
    def size_bytes(self) -> int:
        return carried.size_bytes(self.kept)


def save_chunks(chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Copies of chunks that came one after the other: all tensors of a kind as one, whose shapes are told beside them."""
    tensors = [list(carried.leaves(chunk.kept)) for chunk in chunks]
    shapes = [[_padded(leaf.shape) for leaf in leaves] for leaves in tensors]
    previous = [-1 if chunk.previous is None else chunk.previous for chunk in chunks]
    return {
        "first": chunks[0].number if chunks else 0,
        "previous": torch.tensor(previous, dtype=torch.int64),
        "policy_version": torch.tensor([chunk.policy_version for chunk in chunks], dtype=torch.int64),
        "shapes": torch.tensor(shapes, dtype=torch.int64),
        "tensors": {
            str(place): torch.cat([leaf.flatten() for leaf in kind])
            for place, kind in enumerate(zip(*tensors, strict=True))
        },
    }


def _padded(shape: Sequence[int]) -> list[int]:
    return [*shape, *[-1] * (LARGEST_DIM - len(shape))]


def load_chunks(saved: Mapping[str, Any], example: Kept, num_actions: int) -> Iterator[Chunk]:
    """The inverse of ``save_chunks``; what is returned shares no memory with what was saved.

    Args:
        example: of these shapes and types, but for what differs from chunk to chunk.
        num_actions: that there are.

    Raises:
        ValueError: if it is nothing that could have been saved of such chunks.
    """
    wanted = list(carried.leaves(example))
    previous, versions = _numbers(saved, "previous"), _numbers(saved, "policy_version")
    first, shapes, tensors = saved.get("first"), saved.get("shapes"), saved.get("tensors")
    _require(type(first) is int and 0 <= first <= LARGEST_NUMBER, "first")
    _require(isinstance(shapes, Tensor) and shapes.dtype == torch.int64, "shapes")
    shapes = cast(Tensor, shapes)
    _require(len(previous) == len(versions) == len(shapes), "shapes")
    followed = [number for number in previous if number >= 0]
    _require(len(set(followed)) == len(followed), "previous")
    if not len(shapes):
        return
    _require(shapes.shape[1:] == (len(wanted), LARGEST_DIM), "shapes")
    _require(isinstance(tensors, dict) and tensors.keys() == {str(place) for place in range(len(wanted))}, "tensors")
    found = [cast(dict[str, Any], tensors)[str(place)] for place in range(len(wanted))]
    for tensor, ours in zip(found, wanted, strict=True):
        _require(isinstance(tensor, Tensor) and tensor.dtype == ours.dtype and tensor.dim() == 1, "tensors")
    begins = [0] * len(wanted)
    for number, before, version, of_leaves in zip(
        itertools.count(cast(int, first)), previous, versions, shapes.tolist(), strict=False
    ):
        _require(-1 <= before < number, "previous")
        _require(version >= 0, "policy_version")
        leaves: list[Tensor] = []
        for place, dims in enumerate(of_leaves):
            shape = [size for size in dims if size >= 0]
            end = begins[place] + math.prod(shape)
            _require(end <= len(found[place]), "tensors")
            leaves.append(found[place][begins[place] : end].view(shape).clone())
            begins[place] = end
        kept = carried.rebuild(example, leaves)
        _require_like(kept, example, num_actions)
        yield Chunk(number, None if before < 0 else before, version, kept)


def _numbers(saved: Mapping[str, Any], name: str) -> list[int]:
    found = saved.get(name)
    _require(isinstance(found, Tensor) and found.dtype == torch.int64 and found.dim() == 1, name)
    return cast(Tensor, found).tolist()


def _require_like(kept: Kept, example: Kept, num_actions: int) -> None:
    """Only rows of images and ends of episodes may be more or fewer."""
    ours, model = kept.trajectory, example.trajectory
    for name in ("last_rewards", "last_actions", "is_first", "terminated", "truncated", "valid", "noted"):
        _require(getattr(ours, name).shape == getattr(model, name).shape, name)
    for part, expected in (
        (ours.instructions, model.instructions),
        (ours.before, model.before),
        (kept.inputs, example.inputs),
    ):
        for leaf, like in zip(carried.leaves(part), carried.leaves(expected), strict=True):
            _require(leaf.shape == like.shape, "state")
    _require(_within(ours.last_actions, num_actions), "last_actions")
    rows, places = ours.observations
    whole = model.observations.rows.shape
    if places.numel():
        _require(places.shape == whole[:3] and rows.shape[1:] == whole[3:] and _within(places, len(rows)), "images")
    else:
        _require(rows.shape == whole, "observations")
    count = len(ours.cut_places)
    _require(ours.cut_places.shape == (count, 2), "cut_places")
    for column, largest in zip(ours.cut_places.T, ours.terminated.shape, strict=True):
        _require(_within(column, largest), "cut_places")
    for cut, like in (
        (ours.cut_observations, model.cut_observations),
        (ours.cut_instructions, model.cut_instructions),
    ):
        if cut is not None and like is not None:
            _require(cut.shape == (count, *like.shape[1:]), "cut_observations")


def _within(numbers: Tensor, count: int) -> bool:
    return not numbers.numel() or bool((numbers >= 0).all() and (numbers < count).all())


def _require(is_so: bool, name: str) -> None:
    if not is_so:
        raise ValueError(f"{name!r} in it is nothing that this run could have saved")
