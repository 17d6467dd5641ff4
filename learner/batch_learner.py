"""What every learner does that updates in batches: adds gradients until a batch of segments is complete, updates the weights, counts the
version up.

Where the gradients come from is the subclass's: they are what arrives (``learner.py``), or are made of it (``trajectory_learner.py``).
"""

import time
from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch

from actors.gradients import is_representable
from actors.uploads import Upload
from conf.schema import LearnerConfig
from learner.base_learner import BaseLearner, Judgement, M, name_of
from learner.receipts import Counters, RoundEnd, Update, Verdict
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
        self._sum = torch.zeros_like(self._vector)
        self._segments = 0
        self._upload = Upload(self._sum.device)

    def resize(self, batch_segments: int, max_lag: int) -> None:
        """For a fleet that has become of another size: what was added so far is part of the next batch, whatever its size is now."""
        self._batch_segments = batch_segments
        self._config = replace(self._config, max_lag=max_lag)

    @abstractmethod
    def _gradient(self, contribution: M) -> tuple[Float[Tensor, " parameters"], UnrollStatistics]:
        """What a contribution adds to the sum, and what is known of its unroll."""

    def _learn(self, contribution: M, judgement: Judgement) -> tuple[Judgement, UnrollStatistics]:
        gradient, statistics = self._gradient(contribution)
        if gradient.shape != self._sum.shape or not is_representable(gradient):
            reason = f"{name_of(contribution.header)} is {self._what_is_broken(gradient)}"
            return Judgement(Verdict.REFUSED, reason, 0.0), statistics
        if gradient.device != self._sum.device:
            (gradient,) = self._upload([gradient])
        self._sum.add_(gradient, alpha=judgement.weight)
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
        excess = 0 if self._config.max_lag is None else lag - self._config.max_lag
        if excess <= 0 or self._config.lag_rule == "accept":
            return Judgement(Verdict.ACCEPTED, "", 1.0)
        name = name_of(header)
        if self._config.lag_rule == "damp":
            return Judgement(Verdict.DAMPED, f"{name} is {lag} versions late", 1.0 / (1 + excess))
        reason = f"{name} is {lag} versions late (learner.max_lag={self._config.max_lag})"
        return Judgement(Verdict.DROPPED, reason, 0.0)

    def _what_is_broken(self, gradient: Tensor) -> str:
        if gradient.shape != self._sum.shape:
            return f"of {gradient.numel()} parameters, expected {self._sum.numel()}"
        parameters = {slot.name: slot.view(gradient) for slot in self._layout.slots}
        if broken := [name for name, values in parameters.items() if not bool(values.isfinite().all())]:
            return f"not finite in {', '.join(broken)}"
        largest = max(parameters, key=lambda name: float(parameters[name].abs().max()))
        return f"too large to be added to others, most of all in {largest}"

    def _update_with_sum(self) -> Update:
        update = self._update(self._sum, {})
        self._sum.zero_()
        self._segments = 0
        return update

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "sum": self._sum.to("cpu", copy=True), "segments": self._segments}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if self._batch_segments is not None:  # a round begins with nothing
            self._sum.copy_(state["sum"])
            self._segments = state["segments"]

    def continue_from(self, last: Counters) -> None:
        super().continue_from(last)
        self._sum.zero_()
        self._segments = 0
