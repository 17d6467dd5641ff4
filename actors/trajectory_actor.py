"""The actor of IMPALA: it collects an unroll and ships it whole, with what the core carried before it. Nothing is differentiated here.

collect   rollout: T steps in B streams
carry     the cell's state, and under a rule that has one the sensitivity, advanced under the weights that acted
ship      the trajectory, with the c_0 and S_0 that it began with
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from actors.acting import Acting
from actors.base_actor import BaseActor, Made
from actors.opening import open_actor
from actors.precision import autocast_type
from actors.recorded import RecordedActing, choose_passes
from actors.stem import FrozenStem, StemPass
from actors.trajectory import TrajectoryContribution, record
from actors.worker import ActorIdentity
from conf.schema import ActorsConfig, NetworkConfig, RuleConfig, TrainConfig
from envs.base import VectorEnv
from rtrl_core import ContributionHeader, UnrollStatistics

UNKNOWN = {
    "policy_loss": 0.0,
    "value_loss": 0.0,
    "entropy": 0.0,
    "target_sum": 0.0,
    "target_square_sum": 0.0,
    "error_square_sum": 0.0,
    "losses_known": False,
}
"""What only the learner knows, until it does."""


class TrajectoryActor(BaseActor[TrajectoryContribution]):
    """Turns weights into trajectories. Arguments and errors as ``BaseActor``."""

    def __init__(
        self,
        identity: ActorIdentity,
        envs: Sequence[VectorEnv],
        network: NetworkConfig,
        rule: RuleConfig,
        options: ActorsConfig,
        reward_clip: str,
    ) -> None:
        super().__init__(identity, envs, network, rule, options, reward_clip)
        self.network.requires_grad_(False)
        autocast = autocast_type(options.autocast, self.device)
        stem = FrozenStem(StemPass(self.network, autocast))
        passes = choose_passes(stem.forward, options.cuda_graphs, *self.rollout.example())
        self._acting = Acting(self.network, stem) if passes is None else RecordedActing(self.network, stem, passes)
        self._arithmetic = {"bfloat16": autocast is not None, "cuda_graphs": passes is not None}

    def _make(self) -> Made:
        before = self.rollout.core
        recorded = record(self.rollout, self._acting)
        acted_at = time.perf_counter()
        trajectory = recorded.noting(self.network.distribution.log_prob(recorded.parameters, recorded.actions))
        is_first = trajectory.is_first[:-1].to(self.device)
        if self.network.core.carries_sensitivity:
            self.rollout.core = self.network.core.advance(recorded.inputs, before, is_first)
        nobody = torch.zeros_like(is_first[0])
        return Made(trajectory, is_first, nobody, acted_at, {**UNKNOWN, **self._arithmetic})

    def _message(
        self, header: ContributionHeader, payload: Any, statistics: UnrollStatistics
    ) -> TrajectoryContribution:
        return TrajectoryContribution(header, self.layout, payload, statistics)


def build_trajectory_actor(
    config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None = None
) -> TrajectoryActor:
    """Raises as ``open_actor``."""
    sections = (config.network, config.rule, config.actors, config.env.reward_clip)
    return open_actor(config, identity, state, lambda envs: TrajectoryActor(identity, envs, *sections))
