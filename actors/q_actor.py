"""The actor of R2D2: it plays by its Q-values, each stream with its own share of chance, and ships what it saw and did.

collect   rollout: T steps in B streams, epsilon-greedy
ship      the trajectory with the c_0 that it began with, and how wrong the values were as far as that can be told by now
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from actors.base_actor import Made
from actors.trajectory import Recorded, TrajectoryContribution, record
from actors.trajectory_actor import UNKNOWN, TrajectoryActor
from actors.worker import ActorIdentity
from conf.schema import ActorsConfig, LossConfig, NetworkConfig, RuleConfig
from envs.base import VectorEnv
from rtrl_core import ContributionHeader, UnrollStatistics
from rtrl_core.policies import QValues
from rtrl_core.q_values import n_step_targets, rescaled, unscaled
from rtrl_core.shapes import Float, Tensor


def ladder(base: float, exponent: float, first: int, count: int, of_all: int) -> Float[Tensor, " count"]:
    """``epsilon_i = base^(1 + exponent i / (N - 1))`` of streams ``first ..`` among all N (Horgan et al. 2018)."""
    numbers = torch.arange(first, first + count)
    return base ** (1 + exponent * numbers / max(1, of_all - 1))


class QActor(TrajectoryActor):
    """Turns weights into trajectories. Arguments and errors as ``BaseActor``.

    Args:
        epsilons: of each stream.
        steps: n, of the returns that the errors are of.
        with_inputs: ships the core's inputs too.
    """

    def __init__(
        self,
        identity: ActorIdentity,
        envs: Sequence[VectorEnv],
        network: NetworkConfig,
        rule: RuleConfig,
        loss: LossConfig,
        options: ActorsConfig,
        reward_clip: str,
        *,
        epsilons: Float[Tensor, " B"],
        steps: int,
        with_inputs: bool,
    ) -> None:
        super().__init__(identity, envs, network, rule, options, reward_clip)
        assert isinstance(self.network.distribution, QValues)
        self.network.distribution.epsilon = epsilons.to(self.device)
        self._discount, self._steps, self._with_inputs = loss.discount, steps, with_inputs

    def _make(self) -> Made:
        recorded = record(self.rollout, self._acting)
        acted_at = time.perf_counter()
        trajectory = recorded.noting(self._errors(recorded))
        inputs = recorded.inputs.to(torch.bfloat16).cpu() if self._with_inputs else None
        is_first = trajectory.is_first[:-1].to(self.device)
        nobody = torch.zeros_like(is_first[0])
        return Made((trajectory, inputs), is_first, nobody, acted_at, {**UNKNOWN, **self._arithmetic})

    def _errors(self, recorded: Recorded) -> Float[Tensor, "T B"]:
        """Of ``Q(a_t)``, in its own units. What followed is valued by the weights that acted; nothing has followed the last row, and of
        an episode that was cut off the end has not been looked at: their own values stand for it."""
        q, trajectory = recorded.parameters, recorded.trajectory
        best = q.amax(-1)
        following = torch.cat([best[1:], best[-1:]])
        cut = (trajectory.truncated & trajectory.is_first[1:]).to(q.device)
        targets = n_step_targets(
            rewards=trajectory.last_rewards[1:].to(q.device),
            next_values=unscaled(torch.where(cut, best, following)),
            terminated=trajectory.terminated.to(q.device),
            truncated=trajectory.truncated.to(q.device),
            valid=trajectory.valid.to(q.device),
            discount=self._discount,
            steps=self._steps,
        )
        return rescaled(targets) - q.gather(-1, recorded.actions.unsqueeze(-1)).squeeze(-1)

    def _message(
        self, header: ContributionHeader, payload: Any, statistics: UnrollStatistics
    ) -> TrajectoryContribution:
        trajectory, inputs = payload
        return TrajectoryContribution(header, self.layout, trajectory, statistics, inputs)
