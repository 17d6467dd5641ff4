"""Where episodes begin inside an unroll: what every rule has to forget, and where.

A reset selects, it does not multiply: NaN times zero is NaN, and a stream that was once broken would stay so for ever. What lies
before a start is replaced by zero or left out, whatever it holds. Looking for the starts is the one time in an unroll that the
host waits for the device; where there are none, nothing else is done.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from rtrl_core.shapes import Bool, Int, Shaped, Tensor
from rtrl_core.untyped import numbers, pieces


@dataclass(frozen=True, slots=True)
class Starts:
    """The starts of one unroll, as numbers on the host and as indices on the device."""

    at: dict[int, Int[Tensor, " streams"]]
    """Step -> streams that begin an episode there; steps without one are missing."""
    first: frozenset[int]
    """The streams of step 0."""
    last: dict[int, int]
    """Stream -> the last step at which it begins one; streams without one are missing."""
    mask: Bool[Tensor, "T B 1"]
    streams: Int[Tensor, " starts"]
    """The stream of every start."""
    rows: Int[Tensor, " starts"]
    """``t B + b`` of every start."""
    older: Int[Tensor, " older"]
    """``t B + b`` of every row before the last start of its stream, in this order."""

    @classmethod
    def of(cls, is_first: Bool[Tensor, "T B"]) -> "Starts":
        num_steps, batch_size = is_first.shape
        found = is_first.nonzero()  # by step, then by stream
        steps, streams = found.unbind(1)
        pairs: list[tuple[int, int]] = [(step, stream) for step, stream in numbers(found)]
        mask, rows = is_first.unsqueeze(-1), steps * batch_size + streams
        if not pairs:
            return cls({}, frozenset(), {}, mask, streams, rows, rows)
        counts = [0] * num_steps
        for step, _ in pairs:
            counts[step] += 1
        at = {step: index for step, index in enumerate(pieces(streams, counts)) if counts[step]}
        last = {stream: step for step, stream in pairs}
        older = rows[:0]
        if any(last.values()):
            limits = torch.tensor([last.get(stream, 0) for stream in range(batch_size)], device=is_first.device)
            older = (torch.arange(num_steps, device=is_first.device)[:, None] < limits).flatten().nonzero().squeeze(1)
        first = frozenset(stream for step, stream in pairs if step == 0)
        # The mask is copied: backward reads it, and the caller may have filled it with another unroll by then.
        return cls(at, first, last, mask.clone(), streams, rows, older)

    def forget_older_(self, rows: Shaped[Tensor, "t B ..."], first_step: int = 0) -> None:
        """Zeroes in place, in contiguous rows, what lies before the last start of its stream; ``rows[0]`` is step ``first_step``."""
        begin, end = (
            sum(min(start, step) for start in self.last.values()) for step in (first_step, first_step + len(rows))
        )
        if begin < end:
            rows.flatten(0, 1).index_fill_(0, self.older[begin:end] - first_step * rows.shape[1], 0)


def runs(block: slice, apart: Collection[int]) -> Iterator[tuple[slice, bool]]:
    """Cuts a block of streams into the longest runs that are wholly in ``apart`` or wholly not; the flag says which."""
    start = block.start
    for stream in range(block.start + 1, block.stop + 1):
        if stream == block.stop or (stream in apart) != (start in apart):
            yield slice(start, stream), start in apart
            start = stream
