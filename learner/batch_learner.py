"""What every learner does that updates in batches: adds gradients until a batch of segments is complete, updates the weights, counts the
version up.

Where the gradients come from is the subclass's: they are what arrives (``learner.py``), or are made of it (``trajectory_learner.py``).
Plain Python, one process; ``ray_learner.py`` puts it on Ray.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

from actors.gradients import is_representable
from conf.schema import LearnerConfig
from learner.optimizer import Optimizer
from learner.receipts import Counters, Receipt, RoundEnd, Update, Verdict
from rtrl_core import ContributionHeader, ParameterLayout, UnrollStatistics, WeightsSnapshot
from rtrl_core.shapes import Float, Tensor


@runtime_checkable
class Message(Protocol):
    """What it needs of a contribution, whatever its bulk is."""

    @property
    def header(self) -> ContributionHeader: ...
    @property
    def layout(self) -> str: ...
    @property
    def statistics(self) -> UnrollStatistics: ...
    @property
    def size_bytes(self) -> int: ...


M = TypeVar("M", bound=Message)


class BatchLearner(ABC, Generic[M]):
    """Contributions to weights.

    Args:
        vector: initial weights, on the learner's device; owned by the learner.
        batch_segments: segments per update; ``None`` if ``finish_round`` says when a batch is complete.
        total_steps: length of the learning-rate schedule, in agent steps.
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
        self._config = config
        self._layout = layout
        self._batch_segments = batch_segments
        self._vector = vector
        self._sum = torch.zeros_like(self._vector)
        self._segments = 0
        self._optimizer = Optimizer(config, self._vector, total_steps)
        self._parts = layout.parts()
        self.counters = Counters()
        self._seen: dict[int, tuple[int, int]] = {}
        """Last ``(incarnation, sequence)`` of each actor."""
        self._oldest_version = 0
        """Contributions for weights that a failed learner took with it are of no use."""

    @abstractmethod
    def _gradient(self, contribution: M) -> tuple[Float[Tensor, " parameters"], UnrollStatistics]:
        """What a contribution adds to the sum, and what is known of its unroll."""

    def add(self, contribution: M) -> Receipt:
        """Judges one contribution, adds it if it is good, and updates the weights if it completes a batch."""
        started = time.perf_counter()
        header, counters = contribution.header, self.counters
        lag = counters.version - header.policy_version
        verdict, reason, weight = self._judge(contribution, lag)
        statistics, update = contribution.statistics, None
        counters.wire_bytes += contribution.size_bytes
        if weight:
            gradient, statistics = self._gradient(contribution)
            if gradient.shape != self._sum.shape or not is_representable(gradient):
                verdict, weight = Verdict.REFUSED, 0.0
                reason = f"{_name(header)} is {self._what_is_broken(gradient)}"
            else:
                self._sum.add_(gradient.to(self._sum.device), alpha=weight)
        match verdict:
            case Verdict.ACCEPTED:
                counters.accepted += 1
            case Verdict.DAMPED:
                counters.damped += 1
            case Verdict.DROPPED:
                counters.dropped += 1
            case Verdict.REFUSED:
                counters.refused += 1
        if weight:
            self._segments += header.num_segments
            counters.agent_steps += header.num_steps
            counters.frames += header.num_frames
            if self._batch_segments is not None and self._segments >= self._batch_segments:
                update = self._update()
        busy = time.perf_counter() - started
        return Receipt(header, statistics, verdict, reason, lag, update, replace(counters), busy)

    def finish_round(self) -> RoundEnd:
        """Updates with what was added since the last update, if that is anything.

        A round is over when all that was sent has been judged, not when a number is reached: one that is refused, dropped or lost
        on its way then makes its own batch smaller, and leaves every later one of a single version.
        """
        started = time.perf_counter()
        update = self._update() if self._segments else None
        return RoundEnd(update, replace(self.counters), time.perf_counter() - started)

    def _judge(self, contribution: M, lag: int) -> tuple[Verdict, str, float]:
        """Verdict, reason and weight. Whatever has weight 0 changes neither weights nor step counters."""
        header = contribution.header
        name = _name(header)
        if contribution.layout != self._layout.fingerprint:
            return (
                Verdict.REFUSED,
                f"{name} is of network {contribution.layout}, expected {self._layout.fingerprint}",
                0.0,
            )
        mark = (header.incarnation, header.sequence)
        if mark <= self._seen.get(header.actor_id, (-1, -1)):
            return Verdict.DROPPED, f"{name} came twice", 0.0
        self._seen[header.actor_id] = mark
        if header.policy_version < self._oldest_version:
            return Verdict.DROPPED, f"{name} is of weights that were lost with a failed learner", 0.0
        excess = 0 if self._config.max_lag is None else lag - self._config.max_lag
        if excess <= 0 or self._config.lag_rule == "accept":
            return Verdict.ACCEPTED, "", 1.0
        if self._config.lag_rule == "damp":
            return Verdict.DAMPED, f"{name} is {lag} versions late", 1.0 / (1 + excess)
        return Verdict.DROPPED, f"{name} is {lag} versions late (learner.max_lag={self._config.max_lag})", 0.0

    def _what_is_broken(self, gradient: Tensor) -> str:
        if gradient.shape != self._sum.shape:
            return f"of {gradient.numel()} parameters, expected {self._sum.numel()}"
        parameters = {slot.name: slot.view(gradient) for slot in self._layout.slots}
        if broken := [name for name, values in parameters.items() if not bool(values.isfinite().all())]:
            return f"not finite in {', '.join(broken)}"
        largest = max(parameters, key=lambda name: float(parameters[name].abs().max()))
        return f"too large to be added to others, most of all in {largest}"

    def _update(self) -> Update:
        norm = _norm([self._sum])  # of the whole vector, whatever is in it: padding is zero
        part_norms = {part: _norm([slot.view(self._sum) for slot in slots]) for part, slots in self._parts.items()}
        self._optimizer.apply(self._sum, norm, self.counters.agent_steps)
        self._sum.zero_()
        self._segments = 0
        self.counters.version += 1
        self.counters.updates += 1
        return Update(
            learning_rate=self._optimizer.learning_rate(self.counters.agent_steps),
            gradient_norm=norm,
            part_norms=part_norms,
        )

    def snapshot(self) -> WeightsSnapshot:
        """A copy of the present weights on the CPU."""
        return WeightsSnapshot(
            self.counters.version, self._layout.fingerprint, self._vector.detach().to("cpu", copy=True)
        )

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors, numbers and nested dicts of them."""
        return {
            "weights": self._vector.detach().to("cpu", copy=True),
            "sum": self._sum.to("cpu", copy=True),
            "segments": self._segments,
            "optimizer": self._optimizer.get_state(),
            "counters": asdict(self.counters),
            "seen": {str(actor_id): list(mark) for actor_id, mark in self._seen.items()},
            "oldest_version": self._oldest_version,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._vector.copy_(state["weights"])
        if self._batch_segments is not None:  # a round begins with nothing
            self._sum.copy_(state["sum"])
            self._segments = state["segments"]
        self._optimizer.set_state(state["optimizer"])
        self.counters = Counters(**state["counters"])
        self._seen = {int(actor_id): (mark[0], mark[1]) for actor_id, mark in state["seen"].items()}
        self._oldest_version = state["oldest_version"]

    def continue_from(self, last: Counters) -> None:
        """After a failure took a learner with it: this one holds an older state, but counters and versions go on from ``last``.

        Contributions to the lost versions are dropped when they come.
        """
        self.counters = Counters(**asdict(last))
        self.counters.version += 1
        self._oldest_version = self.counters.version
        self._sum.zero_()
        self._segments = 0


def _name(header: ContributionHeader) -> str:
    return f"contribution {header.sequence} of actor {header.actor_id} (start {header.incarnation})"


def _norm(tensors: Sequence[Tensor]) -> float:
    """Their common Euclidean norm; finite if they are, where the squares of large numbers are not."""
    norm = math.hypot(*(float(torch.linalg.vector_norm(tensor)) for tensor in tensors))
    return norm if math.isfinite(norm) else math.hypot(*(float(tensor.double().norm()) for tensor in tensors))
