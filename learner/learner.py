"""The learner of R2AC: what arrives is a gradient.

It knows no network and no environment, only flat vectors and where the parts lie in them.
"""

from dataclasses import dataclass, replace
from typing import Any

from actors.precision import require_device
from conf.schema import LearnerConfig
from learner.batch_learner import BatchLearner
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

    def first_state(self, vector: Float[Tensor, " parameters"]) -> dict[str, Any]:
        return replace(self, config=replace(self.config, device="cpu")).begin(vector).get_state()

    def resume(self, state: dict[str, Any]) -> Learner:
        learner = self.begin(state["weights"])
        learner.set_state(state)
        return learner
