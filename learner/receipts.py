"""What a learner answers: what became of a contribution, and what an update was like."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from rtrl_core import ContributionHeader, UnrollStatistics


class Verdict(StrEnum):
    """What became of a contribution."""

    ACCEPTED = "accepted"
    DAMPED = "damped"
    """Added with less weight, because it was late."""
    DROPPED = "dropped"
    """Too late, or sent by a process that the learner has already seen more of: a duplicate."""
    REFUSED = "refused"
    """Not finite, too large, or of another network."""


@dataclass(slots=True)
class Counters:
    """Totals of the run, as the learner knows them; they survive restarts."""

    version: int = 0
    """Updates, as policy versions: never goes back, also when updates are lost."""
    updates: int = 0
    agent_steps: int = 0
    frames: int = 0
    accepted: int = 0
    damped: int = 0
    dropped: int = 0
    refused: int = 0
    wire_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """One applied update."""

    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    part_norms: dict[str, float]
    """Of stem, core and heads."""
    gauges: Mapping[str, float] = field(default_factory=dict)
    """What else the algorithm says of it, by the names of metrics."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The learner's answer to one contribution."""

    header: ContributionHeader
    statistics: UnrollStatistics
    verdict: Verdict
    reason: str
    """In words, unless accepted."""
    lag: int
    """Versions between the weights that acted and the learner's."""
    update: Update | None
    """If this contribution completed a batch."""
    counters: Counters
    busy_s: float
    """Time the learner spent on it."""


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """The learner's answer to the end of a round."""

    update: Update | None
    """If anything of the round was accepted."""
    counters: Counters
    busy_s: float

    def noted_in(self, receipts: list[Receipt]) -> list[Receipt]:
        """The round's receipts, the last of which tells of the update too."""
        if not receipts:
            return []
        last = receipts[-1]
        noted = replace(last, update=self.update, counters=self.counters, busy_s=last.busy_s + self.busy_s)
        return [*receipts[:-1], noted]
