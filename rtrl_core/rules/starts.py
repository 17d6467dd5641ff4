"""Where episodes begin inside an unroll: what every rule has to forget, and where.

A reset selects, it does not multiply: NaN times zero is NaN, and a stream that was once broken would stay so for ever. What lies
before a start is replaced by zero or left out, whatever it holds.

The starts are *listed*, as numbers on the host: looking for them is the one time in an unroll that the host waits for the device, and
where there are none, nothing else is done. In work that is recorded (``recording.py``) the host cannot look: there they are *masks*.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from rtrl_core.carried import along
from rtrl_core.recording import is_recording
from rtrl_core.shapes import Bool, Int, Shaped, Tensor
from rtrl_core.untyped import numbers, pieces


class Starts(ABC):
    """The starts of one unroll."""

    @staticmethod
    def of(is_first: Bool[Tensor, "T B"]) -> "Starts":
        return MaskedStarts.masked(is_first) if is_recording() else ListedStarts.listed(is_first)

    @property
    @abstractmethod
    def forgets(self) -> bool:
        """Whether ``forget_older_`` may find something."""

    @abstractmethod
    def may_begin_at(self, step: int) -> bool:
        """Whether ``clear_at_`` and ``replace_at_`` may find something."""

    @abstractmethod
    def forget_older_(self, rows: Shaped[Tensor, "t B ..."], first_step: int = 0) -> None:
        """Zeroes in place, in contiguous rows, what lies before the last start of its stream; ``rows[0]`` is step ``first_step``."""

    @abstractmethod
    def clear_at_(self, values: Shaped[Tensor, "B ..."], step: int) -> Shaped[Tensor, "B ..."]:
        """Zeroes in place the streams that begin an episode at ``step``, and returns the rows."""

    @abstractmethod
    def replace_at_(self, values: Shaped[Tensor, "B ..."], step: int, by: Shaped[Tensor, "B ..."]) -> None:
        """Copies these streams of ``by`` over those of ``values``."""

    @abstractmethod
    def cleared_rows(self, rows: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        """With zeros at the steps at which an episode begins; the rows themselves if there are none."""

    @abstractmethod
    def clear_begun_(self, values: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "B ..."]:
        """Zeroes in place the streams in which an episode begins at any step, and returns the rows."""


@dataclass(frozen=True, slots=True)
class ListedStarts(Starts):
    """As numbers on the host and as indices on the device."""

    at: dict[int, Int[Tensor, " streams"]]
    """Step -> streams that begin an episode there; steps without one are missing."""
    first: frozenset[int]
    """The streams of step 0."""
    last: dict[int, int]
    """Stream -> the last step at which it begins one; streams without one are missing."""
    mask: Bool[Tensor, "T B"]
    streams: Int[Tensor, " starts"]
    """The stream of every start."""
    rows: Int[Tensor, " starts"]
    """``t B + b`` of every start."""
    older: Int[Tensor, " older"]
    """``t B + b`` of every row before the last start of its stream, in this order."""

    @classmethod
    def listed(cls, is_first: Bool[Tensor, "T B"]) -> "ListedStarts":
        num_steps, batch_size = is_first.shape
        found = is_first.nonzero()  # by step, then by stream
        steps, streams = found.unbind(1)
        pairs: list[tuple[int, int]] = [(step, stream) for step, stream in numbers(found)]
        rows = steps * batch_size + streams
        if not pairs:
            return cls({}, frozenset(), {}, is_first, streams, rows, rows)
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
        return cls(at, first, last, is_first.clone(), streams, rows, older)

    @property
    def forgets(self) -> bool:
        return len(self.older) > 0

    def may_begin_at(self, step: int) -> bool:
        return step in self.at

    def forget_older_(self, rows: Shaped[Tensor, "t B ..."], first_step: int = 0) -> None:
        begin, end = (
            sum(min(start, step) for start in self.last.values()) for step in (first_step, first_step + len(rows))
        )
        if begin < end:
            rows.flatten(0, 1).index_fill_(0, self.older[begin:end] - first_step * rows.shape[1], 0)

    def clear_at_(self, values: Shaped[Tensor, "B ..."], step: int) -> Shaped[Tensor, "B ..."]:
        return values.index_fill_(0, self.at[step], 0) if step in self.at else values

    def replace_at_(self, values: Shaped[Tensor, "B ..."], step: int, by: Shaped[Tensor, "B ..."]) -> None:
        if step in self.at:
            torch.where(along(self.mask[step], values), by, values, out=values)

    def cleared_rows(self, rows: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        return rows.flatten(0, 1).index_fill(0, self.rows, 0).view_as(rows) if self.at else rows

    def clear_begun_(self, values: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "B ..."]:
        return values.index_fill_(0, self.streams, 0)


@dataclass(frozen=True, slots=True)
class MaskedStarts(Starts):
    """As masks on the device. The host knows nothing, and everything that could be necessary is done."""

    mask: Bool[Tensor, "T B"]
    begun: Bool[Tensor, " B"]
    """Streams in which an episode begins."""
    older: Bool[Tensor, "T B"]
    """Rows before the last start of their stream."""

    @classmethod
    def masked(cls, is_first: Bool[Tensor, "T B"]) -> "MaskedStarts":
        count = is_first.long()
        return cls(is_first.clone(), is_first.any(0), count.flip(0).cumsum(0).flip(0) > count)

    @property
    def forgets(self) -> bool:
        return len(self.mask) > 1

    def may_begin_at(self, step: int) -> bool:
        del step
        return True

    def forget_older_(self, rows: Shaped[Tensor, "t B ..."], first_step: int = 0) -> None:
        rows.masked_fill_(along(self.older[first_step : first_step + len(rows)], rows), 0)

    def clear_at_(self, values: Shaped[Tensor, "B ..."], step: int) -> Shaped[Tensor, "B ..."]:
        return values.masked_fill_(along(self.mask[step], values), 0)

    def replace_at_(self, values: Shaped[Tensor, "B ..."], step: int, by: Shaped[Tensor, "B ..."]) -> None:
        torch.where(along(self.mask[step], values), by, values, out=values)

    def cleared_rows(self, rows: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        return rows.masked_fill(along(self.mask, rows), 0)

    def clear_begun_(self, values: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "B ..."]:
        return values.masked_fill_(along(self.begun, values), 0)


def runs(block: slice, apart: Collection[int]) -> Iterator[tuple[slice, bool]]:
    """Cuts a block of streams into the longest runs that are wholly in ``apart`` or wholly not; the flag says which."""
    start = block.start
    for stream in range(block.start + 1, block.stop + 1):
        if stream == block.stop or (stream in apart) != (start in apart):
            yield slice(start, stream), start in apart
            start = stream
