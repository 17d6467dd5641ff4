"""The learner of R2AC: what arrives is a gradient, or the sum of several.

It knows no network and no environment, only flat vectors and where the parts lie in them.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

from actors.precision import require_device
from conf.schema import LearnerConfig
from learner.batch_learner import BatchLearner
from learner.judge import (
    Judgement,
    came_twice,
    name_of_sum,
    of_another_network,
    of_lag,
    of_lost_weights,
    of_numbers,
)
from learner.receipts import Receipt, Verdict
from learner.sums import Adder, GradientSum
from rtrl_core import GradientContribution, ParameterLayout, UnrollStatistics
from rtrl_core.shapes import Float, Tensor


class Learner(BatchLearner[GradientContribution]):
    """Gradient contributions to weights. Arguments as ``BatchLearner``, but the weights may be anywhere.

    Raises:
        ConfigError: if the device is not there.
    """

    def __init__(
        self,
        config: LearnerConfig,
        layout: ParameterLayout,
        vector: Float[Tensor, " parameters"],
        *,
        batch_segments: int | None,
        total_steps: int,
    ) -> None:
        mine = vector.to(require_device("learner.device", config.device), copy=True)
        super().__init__(config, layout, mine, batch_segments=batch_segments, total_steps=total_steps)

    def _gradient(self, contribution: GradientContribution) -> tuple[Tensor, UnrollStatistics]:
        return contribution.gradient, contribution.statistics

    def add_sum(self, arrived: GradientSum) -> list[Receipt]:
        """Judges a sum as a whole, adds it if it is good, and updates the weights if it is time. What is in it has been judged where it was
        added up; what the learner alone knows is whether weights were lost, something of it has come before, or all of it is late.

        Returns a receipt for each of its entries, the last of which tells of the update.
        """
        started = time.perf_counter()
        if not arrived.entries:
            return []
        of_all = self._judge_sum(arrived)
        self.counters.wire_bytes += arrived.size_bytes
        receipts: list[Receipt] = []
        update, version = None, self.counters.version
        if is_added := bool(of_all.weight and arrived.headers):
            self._take(arrived, of_all.weight)
        for number, entry in enumerate(arrived.entries, start=1):
            judgement = _together(entry.judgement, of_all)
            self._count(entry.header, judgement)
            if judgement.weight:
                self._segments += entry.header.num_segments
            is_last = number == len(arrived.entries)
            if is_last and is_added:
                update = self._step_if_due()
            lag, busy = version - entry.header.policy_version, time.perf_counter() - started if is_last else 0.0
            verdict, reason, _ = judgement
            counters = replace(self.counters)
            receipts.append(
                Receipt(
                    entry.header, entry.statistics, verdict, reason, lag, update if is_last else None, counters, busy
                )
            )
        return receipts

    def _take(self, arrived: GradientSum, weight: float) -> None:
        self._sum.add_sum(arrived, weight)

    def _judge_sum(self, arrived: GradientSum) -> Judgement:
        headers = arrived.headers
        were_new = [self._marks.pass_by(header) for header in headers]
        for entry in arrived.entries:
            self._marks.pass_by(entry.header)
        name = name_of_sum([entry.header for entry in arrived.entries])
        if (other := of_another_network(name, arrived.layout, self._layout)) is not None:
            return other
        if headers and not any(were_new):
            return came_twice(name)
        if not all(were_new):
            reason = f"{name} has something in it that came before"
            return Judgement(Verdict.REFUSED, reason, 0.0)
        if any(header.policy_version < self._oldest_version for header in headers):
            return of_lost_weights(name)
        by_lag = of_lag(self._config, name, self.counters.version - arrived.version)
        if not by_lag.weight:
            return by_lag
        return of_numbers(name, arrived.gradient, self._layout) or by_lag


def _together(of_one: Judgement, of_all: Judgement) -> Judgement:
    """What becomes of a contribution to a sum."""
    if not of_one.weight:
        return of_one
    if of_all.verdict is Verdict.ACCEPTED:
        return of_one
    return Judgement(of_all.verdict, of_all.reason, of_one.weight * of_all.weight)


@dataclass(frozen=True, slots=True)
class GradientPlan:
    """How to build a ``Learner``, here or in a process of its own: see ``LearnerPlan``."""

    config: LearnerConfig
    layout: ParameterLayout
    batch_segments: int | None
    total_steps: int

    def begin(self, vector: Float[Tensor, " parameters"]) -> Learner:
        """A new learner with these weights."""
        return Learner(
            self.config, self.layout, vector, batch_segments=self.batch_segments, total_steps=self.total_steps
        )

    def adder(self) -> Adder:
        """What adds contributions up before they come to this learner."""
        return Adder(self.config, self.layout)

    def first_state(self, vector: Float[Tensor, " parameters"]) -> dict[str, Any]:
        return replace(self, config=replace(self.config, device="cpu")).begin(vector).get_state()

    def resume(self, state: dict[str, Any]) -> Learner:
        learner = self.begin(state["weights"])
        learner.set_state(state)
        return learner
