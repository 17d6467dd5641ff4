"""What every learner does that updates in batches: adds gradients until a batch of segments is complete, updates the weights, counts the
version up.

Where the gradients come from is the subclass's: they are what arrives (``learner.py``), or are made of it (``trajectory_learner.py``).
"""

import time
from abc import abstractmethod
from dataclasses import replace
from typing import Any

from conf.schema import LearnerConfig
from learner.base_learner import BaseLearner, M
from learner.judge import Judgement, name_of, of_lag, of_numbers
from learner.receipts import Counters, RoundEnd, Update
from learner.sums import ExactSum, RunningSum
from rtrl_core import ContributionHeader, ParameterLayout, UnrollStatistics
from rtrl_core.shapes import Float, Tensor


class BatchLearner(BaseLearner[M]):
    """Arguments as ``BaseLearner``.

    Args:
        batch_segments: segments per update; ``None`` if ``finish_round`` says when a batch is complete.
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
        super().__init__(config, layout, vector, total_steps=total_steps)
        self._batch_segments = batch_segments
        self._sum = ExactSum(self._vector) if batch_segments is None else RunningSum(self._vector)
        self._segments = 0

    def resize(self, batch_segments: int, max_lag: int) -> None:
        """For a fleet that has become of another size: what was added so far is part of the next batch, whatever its size is now."""
        self._batch_segments = batch_segments
        self._config = replace(self._config, max_lag=max_lag)

    @abstractmethod
    def _gradient(self, contribution: M) -> tuple[Float[Tensor, " parameters"], UnrollStatistics]:
        """What a contribution adds to the sum, and what is known of its unroll."""

    def _learn(self, contribution: M, judgement: Judgement) -> tuple[Judgement, UnrollStatistics]:
        gradient, statistics = self._gradient(contribution)
        if (broken := of_numbers(name_of(contribution.header), gradient, self._layout)) is not None:
            return broken, statistics
        self._sum.add(gradient, judgement.weight)
        self._segments += contribution.header.num_segments
        return judgement, statistics

    def _step_if_due(self) -> Update | None:
        if self._batch_segments is None or self._segments < self._batch_segments:
            return None
        return self._update_with_sum()

    def finish_round(self) -> RoundEnd:
        """Updates with what was added since the last update, if that is anything.

        A round is over when all that was sent has been judged, not when a number is reached: one that is refused, dropped or lost
        on its way then makes its own batch smaller, and leaves every later one of a single version.
        """
        started = time.perf_counter()
        update = self._update_with_sum() if self._segments else None
        return RoundEnd(update, replace(self.counters), time.perf_counter() - started)

    def _judge_lag(self, header: ContributionHeader, lag: int) -> Judgement:
        return of_lag(self._config, name_of(header), lag)

    def _update_with_sum(self) -> Update:
        update = self._update(self._sum.vector(), {})
        self._sum.clear()
        self._segments = 0
        return update

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "sum": self._sum.vector().to("cpu", copy=True), "segments": self._segments}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if self._batch_segments is not None:  # a round begins with nothing
            self._sum.set(state["sum"])
            self._segments = state["segments"]

    def continue_from(self, last: Counters) -> None:
        super().continue_from(last)
        self._sum.clear()
        self._segments = 0
