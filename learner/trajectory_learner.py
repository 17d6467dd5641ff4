"""The learner of IMPALA: what arrives is a trajectory, which it replays under its present weights and differentiates, as R2AC's actors do
with theirs. What has changed since it was collected is in the importance weights of V-trace.
"""

from dataclasses import dataclass, replace
from typing import Any

from actors.actor import statistics_of
from actors.build import build_seeded_network
from actors.gradients import Differentiation, importance, unroll_gradient
from actors.precision import autocast_type, require_device
from actors.replay import ReplayedStem, replay
from actors.stem import choose_stem, rows_at_once
from actors.trajectory import Trajectory, TrajectoryContribution
from conf.schema import LearnerConfig, TrainConfig
from envs.base import EnvSpec
from learner.batch_learner import BatchLearner
from rtrl_core import FlatParameters, ParameterLayout, UnrollStatistics, carried
from rtrl_core.shapes import Float, Tensor


class TrajectoryLearner(BatchLearner[TrajectoryContribution]):
    """Trajectories to weights.

    Args:
        config: of the run; sized.
        vector: initial weights, anywhere.
        batch_segments: as ``BatchLearner``.

    Raises:
        ConfigError: if the device is not there.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: EnvSpec,
        vector: Float[Tensor, " parameters"],
        *,
        batch_segments: int | None,
        device: str,
    ) -> None:
        self.device = require_device("learner.device", device)
        self.network = build_seeded_network(config.network, config.rule, spec, config.seed).to(self.device)
        self.parameters = FlatParameters(self.network)
        self.parameters.load(vector)
        super().__init__(
            config.learner,
            self.parameters.layout,
            self.parameters.vector,
            batch_segments=batch_segments,
            total_steps=config.total_steps,
        )
        self._differentiation = Differentiation(self.network, self.parameters, config.loss)
        self._actors = config.actors
        self._stem: ReplayedStem | None = None

    def _gradient(self, contribution: TrajectoryContribution) -> tuple[Tensor, UnrollStatistics]:
        trajectory = carried.to(contribution.trajectory, self.device)
        unroll = replay(self.network, trajectory, self._stem_for(trajectory))
        learnt = unroll_gradient(self._differentiation, unroll, self._stem_for(trajectory))
        statistics = replace(
            contribution.statistics,
            **statistics_of(learnt, unroll),
            # The actor has counted those that it began anew by itself, for the same reason as a rule.
            streams_reset=max(contribution.statistics.streams_reset, int(learnt.left_out.sum())),
            **importance(unroll, learnt.left_out, self._differentiation.loss.clip_ratio),
        )
        return self.parameters.gradient, statistics

    def _stem_for(self, trajectory: Trajectory) -> ReplayedStem:
        """Made when the first trajectory has come, whose size it depends on."""
        if self._stem is not None:
            return self._stem
        options = self._actors
        example = trajectory.step_input(trajectory.observations.unpack(), slice(0, 1))
        autocast = autocast_type(options.autocast, self.device)
        at_once = max(1, rows_at_once(self.device) // trajectory.num_envs)
        stem = choose_stem(
            self.network,
            activations=options.activations,
            budget_bytes=options.activation_budget_bytes,
            autocast=autocast,
            passes=trajectory.num_steps,
            example=example,
        )
        self._stem = ReplayedStem(stem, at_once)
        return self._stem


@dataclass(frozen=True, slots=True)
class TrajectoryPlan:
    """How to build a ``TrajectoryLearner``, here or in a process of its own: see ``LearnerPlan``."""

    run: TrainConfig
    spec: EnvSpec
    layout: ParameterLayout
    batch_segments: int | None

    @property
    def config(self) -> LearnerConfig:
        return self.run.learner

    def begin(self, vector: Float[Tensor, " parameters"], device: str | None = None) -> TrajectoryLearner:
        """A new learner with these weights."""
        return TrajectoryLearner(
            self.run, self.spec, vector, batch_segments=self.batch_segments, device=device or self.config.device
        )

    def first_state(self, vector: Float[Tensor, " parameters"]) -> dict[str, Any]:
        return self.begin(vector, device="cpu").get_state()

    def resume(self, state: dict[str, Any]) -> TrajectoryLearner:
        learner = self.begin(state["weights"])
        learner.set_state(state)
        return learner
