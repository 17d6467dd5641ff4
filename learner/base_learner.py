"""What every learner does that makes weights of gradients: looks at who sent what, counts, takes steps, and can be saved.

When a step is taken, and what the gradient is made of, is the subclass's: whole batches of what arrives (``batch_learner.py``), or what is
drawn from a replay (``q_learner.py``). Plain Python, one process; ``ray_learner.py`` puts it on Ray.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch.nn.utils import get_total_norm

from conf.schema import LearnerConfig
from learner.judge import ACCEPTED, Judgement, Marks, came_twice, name_of, of_another_network, of_lost_weights
from learner.optimizer import Optimizer
from learner.receipts import Counters, Receipt, Update, Verdict
from rtrl_core import ContributionHeader, ParameterLayout, UnrollStatistics, WeightsSnapshot
from rtrl_core.shapes import Float, Tensor
from rtrl_core.untyped import numbers


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
LARGE = 1e15
"""Number beyond which a sum of squares may not be finite in float32."""


class BaseLearner(ABC, Generic[M]):
    """Contributions to weights.

    Args:
        vector: initial weights, on the learner's device; owned by the learner.
        total_steps: length of the learning-rate schedule, in agent steps.
    """

    def __init__(
        self, config: LearnerConfig, layout: ParameterLayout, vector: Float[Tensor, " parameters"], *, total_steps: int
    ) -> None:
        self._config = config
        self._layout = layout
        self._vector = vector
        self._optimizer = Optimizer(config, self._vector, total_steps)
        self._parts = layout.parts()
        self.counters = Counters()
        self._marks = Marks()
        self._oldest_version = 0
        """Contributions for weights that a failed learner took with it are of no use."""

    @abstractmethod
    def _learn(self, contribution: M, judgement: Judgement) -> tuple[Judgement, UnrollStatistics]:
        """Does with a good contribution what there is to do with it. Returns what became of it after all, and what is known of it."""

    @abstractmethod
    def _step_if_due(self) -> Update | None:
        """The update that a contribution has made possible, where the schedule does not say when there is one."""

    def _judge_lag(self, header: ContributionHeader, lag: int) -> Judgement:
        """What becomes of a contribution that is all right, by its age."""
        del header, lag
        return ACCEPTED

    def add(self, contribution: M) -> Receipt:
        """Judges one contribution, learns from it if it is good, and updates the weights if it is time."""
        started = time.perf_counter()
        header, counters = contribution.header, self.counters
        lag = counters.version - header.policy_version
        judgement = self._judge(contribution, lag)
        statistics, update = contribution.statistics, None
        counters.wire_bytes += contribution.size_bytes
        if judgement.weight:
            judgement, statistics = self._learn(contribution, judgement)
        self._count(header, judgement)
        if judgement.weight:
            update = self._step_if_due()
        busy = time.perf_counter() - started
        return Receipt(header, statistics, judgement.verdict, judgement.reason, lag, update, replace(counters), busy)

    def _count(self, header: ContributionHeader, judgement: Judgement) -> None:
        counters = self.counters
        match judgement.verdict:
            case Verdict.ACCEPTED:
                counters.accepted += 1
            case Verdict.DAMPED:
                counters.damped += 1
            case Verdict.DROPPED:
                counters.dropped += 1
            case Verdict.REFUSED:
                counters.refused += 1
        if judgement.weight:
            counters.agent_steps += header.num_steps
            counters.frames += header.num_frames

    def _judge(self, contribution: M, lag: int) -> Judgement:
        header = contribution.header
        name = name_of(header)
        if (other := of_another_network(name, contribution.layout, self._layout)) is not None:
            return other
        if not self._marks.pass_by(header):
            return came_twice(name)
        if header.policy_version < self._oldest_version:
            return of_lost_weights(name)
        return self._judge_lag(header, lag)

    def _update(self, gradient: Float[Tensor, " parameters"], gauges: Mapping[str, float]) -> Update:
        """One step of the optimizer; overwrites ``gradient``."""
        norms = self._norms(gradient)
        learning_rate = self._optimizer.apply(gradient, norms[0], self.counters.agent_steps)
        self.counters.version += 1
        self.counters.updates += 1
        norm, *part_norms = numbers(norms)  # once all has been asked of the device
        return Update(
            learning_rate=learning_rate,
            gradient_norm=norm,
            part_norms=dict(zip(self._parts, part_norms, strict=True)),
            gauges=gauges,
        )

    def _norms(self, gradient: Float[Tensor, " parameters"]) -> Float[Tensor, " norms"]:
        """Of the whole and of each part; finite if the gradient is, where the squares of large numbers are not."""
        if gradient.device.type == "cpu":
            norms = self._norms_of_parts(gradient)
            return norms if norms.isfinite().all() else self._norms_of_parts(gradient.double())
        largest = torch.linalg.vector_norm(gradient, float("inf"))
        scale = torch.where(largest > LARGE, largest, torch.ones_like(largest))  # the host does not look
        return self._norms_of_parts(gradient / scale) * scale

    def _norms_of_parts(self, gradient: Float[Tensor, " parameters"]) -> Float[Tensor, " norms"]:
        nothing = gradient.new_zeros(())
        parts = [
            get_total_norm([slot.view(gradient) for slot in slots]) if slots else nothing
            for slots in self._parts.values()
        ]
        of_each = torch.stack(parts).double()
        whole = torch.linalg.vector_norm(of_each)  # what lies between the slots is zero
        return torch.cat([whole.unsqueeze(0), of_each])

    def snapshot(self) -> WeightsSnapshot:
        """A copy of the present weights on the CPU."""
        return WeightsSnapshot(
            self.counters.version, self._layout.fingerprint, self._vector.detach().to("cpu", copy=True)
        )

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors, numbers and nested dicts of them."""
        return {
            "weights": self._vector.detach().to("cpu", copy=True),
            "optimizer": self._optimizer.get_state(),
            "counters": asdict(self.counters),
            "seen": self._marks.get_state(),
            "oldest_version": self._oldest_version,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._vector.copy_(state["weights"])
        self._optimizer.set_state(state["optimizer"])
        self.counters = Counters(**state["counters"])
        self._marks.set_state(state["seen"])
        self._oldest_version = state["oldest_version"]

    def continue_from(self, last: Counters) -> None:
        """After a failure took a learner with it: this one holds an older state, but counters and versions go on from ``last``.

        Contributions to the lost versions are dropped when they come.
        """
        self.counters = Counters(**asdict(last))
        self.counters.version += 1
        self._oldest_version = self.counters.version
