"""Sums of gradients: at the learner until there is an update, and on the way to it where the actors of a node are added up there.

    contribution   one actor's unroll: header, gradient, statistics
    GradientSum    several of them: the sum of their gradients, and of each what it is and what became of it

Addition is associative: a sum of sums is the sum of all. In single precision that holds but for rounding, which is good enough to train
with (``RunningSum``); where runs repeat bit for bit (``learner.mode=sync`` and ``lockstep``) sums are kept so exactly that it is no matter
who was added to whom first (``ExactSum``).
"""

from dataclasses import dataclass, replace

import torch

from actors.uploads import Upload
from conf.schema import LearnerConfig
from learner.judge import (
    Judgement,
    Marks,
    came_twice,
    name_of,
    of_another_network,
    of_lag,
    of_numbers,
)
from rtrl_core import ContributionHeader, GradientContribution, ParameterLayout, UnrollStatistics
from rtrl_core.shapes import Float, Tensor

AT_ONCE = 2**15
"""Numbers of an exact sum on a CPU that are added at a time: few enough to stay in its cache."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One contribution to a sum, or one that was left out of it."""

    header: ContributionHeader
    statistics: UnrollStatistics
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class GradientSum:
    """What crosses the network instead of the contributions it is made of."""

    layout: str
    """``ParameterLayout.fingerprint``."""
    version: int
    """The newest weights that were known where it was added up: by it its contributions were judged."""
    entries: tuple[Entry, ...]
    gradient: Float[Tensor, " parameters"]
    """Float32; of an exact sum the first of two parts, float64."""
    rest: Float[Tensor, " parameters"] | None
    """The second part."""

    @property
    def headers(self) -> list[ContributionHeader]:
        """Of what is in the sum."""
        return [entry.header for entry in self.entries if entry.judgement.weight]

    @property
    def size_bytes(self) -> int:
        """Of its tensors: depends on the network, not on how many contributions are in it."""
        return sum(part.numel() * part.element_size() for part in (self.gradient, self.rest) if part is not None)


class RunningSum:
    """In single precision, one after the other.

    Args:
        like: a vector of the size, on the device.
    """

    def __init__(self, like: Float[Tensor, " parameters"]) -> None:
        self._sum = torch.zeros_like(like)
        self._upload = Upload(like.device)

    def add(self, gradient: Float[Tensor, " parameters"], weight: float) -> None:
        """A gradient from anywhere, in any precision."""
        if gradient.device != self._sum.device:
            (gradient,) = self._upload([gradient])
        self._sum.add_(gradient, alpha=weight)

    def add_sum(self, arrived: GradientSum, weight: float) -> None:
        self.add(arrived.gradient, weight)

    def vector(self) -> Float[Tensor, " parameters"]:
        """The sum, in the precision of the weights; may be written to if ``clear`` follows."""
        return self._sum

    def parts(self) -> tuple[Tensor, Tensor | None]:
        """``GradientSum.gradient`` and ``rest``, copies on the CPU."""
        return self._sum.to("cpu", copy=True), None

    def clear(self) -> None:
        self._sum.zero_()

    def set(self, vector: Float[Tensor, " parameters"]) -> None:
        self._sum.copy_(vector)


class ExactSum:
    """In two float64 parts, the second of which has what rounding took from the first (Knuth, TAOCP 2, 4.2.2, Theorem B): some 100 bits,
    rounded once, at the end. Float32 numbers whose sizes differ less than 2^70 times lose nothing, so any order gives the same sum.

    Args:
        like: a vector of the size, on the device.
    """

    def __init__(self, like: Float[Tensor, " parameters"]) -> None:
        self._dtype = like.dtype
        self._first = torch.zeros_like(like, dtype=torch.float64)
        self._rest = torch.zeros_like(self._first)
        self._upload = Upload(like.device)
        self._at_once = max(1, min(like.numel(), AT_ONCE) if like.device.type == "cpu" else like.numel())
        self._buffers = [torch.empty_like(self._first[: self._at_once]) for _ in range(3)]

    def add(self, gradient: Float[Tensor, " parameters"], weight: float) -> None:
        """A gradient from anywhere, in any precision."""
        if gradient.device != self._first.device:
            (gradient,) = self._upload([gradient])
        pieces = (vector.split(self._at_once) for vector in (self._first, self._rest, gradient))
        for first, rest, values in zip(*pieces, strict=True):
            total, of_total, part = (buffer[: len(first)] for buffer in self._buffers)
            part.copy_(values)
            if weight != 1.0:
                part.mul_(weight)
            torch.add(first, part, out=total)
            torch.sub(total, first, out=of_total)
            part.sub_(of_total)  # what the total lacks of the part,
            torch.sub(total, of_total, out=of_total)
            first.sub_(of_total)  # and what it lacks of what was there
            rest.add_(first.add_(part))
            first.copy_(total)

    def add_sum(self, arrived: GradientSum, weight: float) -> None:
        self.add(arrived.gradient, weight)
        if arrived.rest is not None:
            self._rest.add_(arrived.rest.to(self._rest.device), alpha=weight)

    def vector(self) -> Float[Tensor, " parameters"]:
        """The sum, in the precision of the weights."""
        return (self._first + self._rest).to(self._dtype)

    def parts(self) -> tuple[Tensor, Tensor | None]:
        """``GradientSum.gradient`` and ``rest``, copies on the CPU."""
        return self._first.to("cpu", copy=True), self._rest.to("cpu", copy=True)

    def clear(self) -> None:
        self._first.zero_()
        self._rest.zero_()

    def set(self, vector: Float[Tensor, " parameters"]) -> None:
        self._first.copy_(vector)
        self._rest.zero_()


class Adder:
    """Contributions to a sum, judged one by one as the learner would, by what is known where they are added.

    Args:
        config: of the learner: its rule for what is late.
        layout: of the network.
    """

    def __init__(self, config: LearnerConfig, layout: ParameterLayout) -> None:
        self._config, self._layout = config, layout
        nothing = torch.zeros(layout.size)
        self._sum = RunningSum(nothing) if config.mode == "async" else ExactSum(nothing)
        self._marks = Marks()
        self._entries: list[Entry] = []
        self._version = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, contribution: GradientContribution, version: int) -> None:
        """
        Args:
            version: of the newest weights that are known here.
        """
        header = contribution.header
        judgement = self._judge(contribution, version)
        if judgement.weight:
            self._sum.add(contribution.gradient, judgement.weight)
        self._version = max(self._version, version)
        self._entries.append(Entry(header, contribution.statistics, judgement))

    def _judge(self, contribution: GradientContribution, version: int) -> Judgement:
        header = contribution.header
        name = name_of(header)
        if (other := of_another_network(name, contribution.layout, self._layout)) is not None:
            return other
        if not self._marks.pass_by(header):
            return came_twice(name)
        by_lag = of_lag(self._config, name, version - header.policy_version)
        if not by_lag.weight:
            return by_lag
        return of_numbers(name, contribution.gradient, self._layout) or by_lag

    def take(self) -> GradientSum:
        """What was added since it was taken last, in the order of actors."""
        entries = tuple(sorted(self._entries, key=_order))
        gradient, rest = self._sum.parts()
        self._sum.clear()
        self._entries = []
        return GradientSum(self._layout.fingerprint, self._version, entries, gradient, rest)

    def resize(self, max_lag: int | None) -> None:
        """See ``learner.plan.Resizable``."""
        self._config = replace(self._config, max_lag=max_lag)


def _order(entry: Entry) -> tuple[int, int, int]:
    return entry.header.actor_id, entry.header.incarnation, entry.header.sequence
