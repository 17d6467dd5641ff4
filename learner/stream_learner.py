"""The learner of streaming: it keeps the weights that its only actor has arrived at, and counts the version up.

All learning happens at the actor, step by step; what is left here is what every run needs of a learner: one place that knows the
weights, judges what comes, and can be saved.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from actors.gradients import is_representable
from conf.schema import LearnerConfig
from learner.judge import Marks, came_twice, name_of
from learner.receipts import Counters, Receipt, RoundEnd, Update, Verdict
from rtrl_core import ParameterLayout, WeightsContribution, WeightsSnapshot
from rtrl_core.shapes import Float, Tensor

MOMENTS_PREFIX = "running."
"""Parameters without a gradient (``PolicyNetwork.running``): their changes have no part in the norms."""


class StreamLearner:
    """Weights to weights.

    Args:
        vector: initial weights; copied.
    """

    def __init__(self, layout: ParameterLayout, vector: Float[Tensor, " parameters"]) -> None:
        self._layout = layout
        self._vector = vector.detach().to("cpu", copy=True)
        self._next: WeightsContribution | None = None
        self.counters = Counters()
        self._marks = Marks()

    def add(self, contribution: WeightsContribution) -> Receipt:
        """Judges weights, and keeps them for the end of the round if they are good and lead on from the present ones."""
        started = time.perf_counter()
        header, counters = contribution.header, self.counters
        lag = counters.version - header.policy_version
        verdict, reason = self._judge(contribution, lag)
        counters.wire_bytes += contribution.size_bytes
        match verdict:
            case Verdict.ACCEPTED:
                counters.accepted += 1
                counters.agent_steps += header.num_steps
                counters.frames += header.num_frames
                self._next = contribution
            case Verdict.REFUSED:
                counters.refused += 1
            case _:
                counters.dropped += 1
        busy = time.perf_counter() - started
        return Receipt(header, contribution.statistics, verdict, reason, lag, None, replace(counters), busy)

    def _judge(self, contribution: WeightsContribution, lag: int) -> tuple[Verdict, str]:
        header = contribution.header
        name = name_of(header)
        if contribution.layout != self._layout.fingerprint or contribution.weights.shape != self._vector.shape:
            return Verdict.REFUSED, f"{name} is of network {contribution.layout}, expected {self._layout.fingerprint}"
        if not self._marks.pass_by(header):
            return Verdict.DROPPED, came_twice(name).reason
        if not is_representable(contribution.weights):
            broken = [slot.name for slot in self._layout.slots if not is_representable(slot.view(contribution.weights))]
            return Verdict.REFUSED, f"{name} is not finite, or too large, in {', '.join(broken)}"
        if lag or self._next is not None:
            return (
                Verdict.DROPPED,
                f"{name} does not lead on from the present weights: stream_ac has one actor and no lag",
            )
        return Verdict.ACCEPTED, ""

    def finish_round(self) -> RoundEnd:
        """The weights that were accepted are the present ones now."""
        started = time.perf_counter()
        update = None
        if self._next is not None:
            update = self._update(self._next)
            self._next = None
        return RoundEnd(update, replace(self.counters), time.perf_counter() - started)

    def _update(self, arrived: WeightsContribution) -> Update:
        change = arrived.weights - self._vector
        parts = {
            part: math.hypot(*(float(slot.view(change).norm()) for slot in slots if not _is_moment(slot.name)))
            for part, slots in self._layout.parts().items()
        }
        self._vector.copy_(arrived.weights)
        self.counters.version += 1
        self.counters.updates += 1
        return Update(arrived.step_size, math.hypot(*parts.values()), parts)

    def snapshot(self) -> WeightsSnapshot:
        """A copy of the present weights."""
        return WeightsSnapshot(self.counters.version, self._layout.fingerprint, self._vector.clone())

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit between two rounds."""
        return {
            "weights": self._vector.clone(),
            "counters": asdict(self.counters),
            "seen": self._marks.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._vector.copy_(state["weights"])
        self.counters = Counters(**state["counters"])
        self._marks.set_state(state["seen"])

    def continue_from(self, last: Counters) -> None:
        """See ``ServedLearner``. What began with lost weights no longer leads on from the present ones: their version is another."""
        self.counters = Counters(**asdict(last))
        self.counters.version += 1
        self._next = None


def _is_moment(name: str) -> bool:
    return name.startswith(MOMENTS_PREFIX)


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """How to build a ``StreamLearner``, here or in a process of its own: see ``LearnerPlan``."""

    config: LearnerConfig
    layout: ParameterLayout

    def first_state(self, vector: Float[Tensor, " parameters"]) -> dict[str, Any]:
        return StreamLearner(self.layout, vector).get_state()

    def resume(self, state: dict[str, Any]) -> StreamLearner:
        learner = StreamLearner(self.layout, state["weights"])
        learner.set_state(state)
        return learner
