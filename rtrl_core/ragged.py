"""Streams of different lengths in one padded batch: each runs for its own number of steps, as if it were alone.

The streams of one length run together, so a batch takes one pass per distinct length. Padding is never read; cutting the unroll
into pieces of time instead would end the gradient of the inputs, and that of a truncated rule, at every piece.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch.nn import functional
from torch.nn.utils import rnn

from rtrl_core import carried
from rtrl_core.arguments import expect
from rtrl_core.cores.base import CoreState
from rtrl_core.shapes import Bool, Float, Int, Tensor
from rtrl_core.untyped import numbers

Run: TypeAlias = Callable[[Tensor, CoreState, Tensor], tuple[Tensor, CoreState]]
"""``(inputs [T, B, D], state, is_first [T, B]) -> (outputs [T, B, H], state)``."""


def checked_lengths(lengths: Int[Tensor, " B"] | Sequence[int], num_steps: int, batch_size: int) -> list[int]:
    """
    Raises:
        TypeError: if they are no whole numbers.
        ValueError: if they are not one per stream, or one is below 1 or above ``num_steps``.
    """
    if isinstance(lengths, Tensor):
        expect("lengths", lengths, "B", (batch_size,), torch.int64, lengths.device)
        lengths = numbers(lengths)
    if not (isinstance(lengths, list | tuple) and all(type(length) is int for length in lengths)):
        raise TypeError(f"lengths must be int64 [B], or a list of whole numbers, got {type(lengths).__name__}")
    if len(lengths) != batch_size:
        raise ValueError(f"lengths must be one per stream, {batch_size}, got {len(lengths)}")
    for stream, length in enumerate(lengths):
        if not 1 <= length <= num_steps:
            raise ValueError(
                f"lengths must be from 1 to the number of steps, {num_steps}, got {length} for stream {stream}: "
                "leave a stream without a step out of the batch, by state.select"
            )
    return list(lengths)


def by_lengths(
    run: Run,
    inputs: Float[Tensor, "T B D"],
    state: CoreState,
    is_first: Bool[Tensor, "T B"],
    lengths: Sequence[int],
) -> tuple[Float[Tensor, "T B H"], CoreState]:
    """Outputs, zero behind a stream's length, and the state of each stream after its own last step."""
    num_steps = inputs.shape[0]
    if min(lengths) == num_steps:
        return run(inputs, state, is_first)
    streams_of: dict[int, list[int]] = {}
    for stream, length in enumerate(lengths):
        streams_of.setdefault(length, []).append(stream)
    outputs: list[Tensor] = []
    states: list[CoreState] = []
    for length, streams in streams_of.items():
        index = torch.tensor(streams, device=inputs.device)
        given, after = run(inputs[:length, index], carried.select(state, index), is_first[:length, index])
        outputs.append(functional.pad(given, (0, 0, 0, 0, 0, num_steps - length)))
        states.append(after)
    order = torch.tensor([stream for streams in streams_of.values() for stream in streams], device=inputs.device)
    places = order.argsort()
    together = [torch.cat(parts)[places] for parts in zip(*map(carried.leaves, states), strict=True)]
    return torch.cat(outputs, 1)[:, places], carried.rebuild(states[0], together)


def unpack(packed: rnn.PackedSequence) -> tuple[Float[Tensor, "T B D"], list[int]]:
    """Padded, in the order of the streams before they were sorted, and their lengths."""
    padded, lengths = rnn.pad_packed_sequence(packed)
    return padded, numbers(lengths)


def pack_like(
    packed: rnn.PackedSequence, outputs: Float[Tensor, "T B H"], lengths: Sequence[int]
) -> rnn.PackedSequence:
    """Row by row beside ``packed``, so that a loss may compare the ``data`` of the two."""
    order: Tensor | None = packed.sorted_indices
    if order is None:  # they came sorted
        order = torch.arange(len(lengths), device=outputs.device)
    longest_first: list[int] = [lengths[stream] for stream in numbers(order)]
    data = rnn.pack_padded_sequence(outputs[:, order], torch.tensor(longest_first)).data
    return rnn.PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
