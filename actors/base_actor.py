"""What every actor does that collects unrolls: load weights, take T steps, look after its streams, count, and say how it went.

What is made of an unroll, and so what is shipped, is the subclass's: its gradient (``actor.py``), or the trajectory itself
(``trajectory_actor.py``).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple

import torch

from actors.accounts import SensitivityAges
from actors.build import build_seeded_network, carry_refreshed
from actors.precision import require_device
from actors.reporting import header_of, statistics_of_streams
from actors.rollout import Rollout
from actors.worker import ActorIdentity, C
from conf.schema import ActorsConfig, NetworkConfig, RuleConfig
from envs.base import VectorEnv
from rtrl_core import ContributionHeader, FlatParameters, UnrollStatistics, WeightsSnapshot
from rtrl_core.shapes import Bool, Float, Tensor

LARGEST_SENSITIVITY = 1e18
"""Norm of a stream's sensitivity beyond which the stream begins anew. Squares of such numbers, and products of two, are no longer
finite in float32; long before, they have lost all precision."""


class Made(NamedTuple):
    """What a subclass has made of an unroll."""

    payload: Any
    """Of the contribution."""
    is_first: Bool[Tensor, "T B"]
    left_out: Bool[Tensor, " B"]
    """Streams that nothing could be made of."""
    acted_at: float
    """When the last step had been taken, in seconds of ``time.perf_counter``."""
    statistics: dict[str, Any]
    """The fields of ``UnrollStatistics`` that only the subclass knows."""
    takes_steps: bool = True
    """Whether steps were taken for it; otherwise it is of those of the last one."""
    is_last: bool = True
    """Whether nothing more is made of these steps: ``rollout.core`` is what is carried at their end."""


class BaseActor(ABC, Generic[C]):
    """Turns weights into contributions, one unroll at a time.

    Args:
        envs: of its streams, one for each group that is stepped by itself; owned by the actor from here on.
        reward_clip: what loss and core see of a reward, see ``clip_rewards``.

    Raises:
        ValueError: if the network does not fit the environment.
        ConfigError: if the device is not there, or ``rule.refresh`` does not fit.
    """

    def __init__(
        self,
        identity: ActorIdentity,
        envs: Sequence[VectorEnv],
        network: NetworkConfig,
        rule: RuleConfig,
        options: ActorsConfig,
        reward_clip: str,
    ) -> None:
        self.identity = identity
        self.device = require_device("actors.device", options.device)
        self.network = build_seeded_network(network, rule, envs[0].spec, identity.seed).to(self.device)
        carry_refreshed(self.network, network, rule, options.unroll)
        self.parameters = FlatParameters(self.network)
        self.policy_version = -1
        """Of the weights that act; none has been loaded yet, whatever the version of the first ones may be."""
        self._sequence = 0
        self.rollout = Rollout(
            envs,
            self.network,
            unroll_length=options.unroll,
            reward_clip=reward_clip,
            action_seeds=identity.action_seeds(len(envs)),
            device=self.device,
        )
        self._ages = SensitivityAges(self.rollout.num_envs)
        self._idle_since: float | None = None
        """Before its first unroll it waits for others to start, not for weights."""

    @property
    def layout(self) -> str:
        return self.parameters.layout.fingerprint

    @abstractmethod
    def _make(self) -> Made:
        """Takes the steps of an unroll and leaves in ``rollout.core`` what is carried at its end, or makes more of the steps taken last."""

    @abstractmethod
    def _message(self, header: ContributionHeader, payload: Any, statistics: UnrollStatistics) -> C: ...

    def _began_anew(self, streams: Bool[Tensor, " B"]) -> None:
        """What these streams carry has nothing to do with their episodes any more."""

    def unroll(self, weights: WeightsSnapshot) -> C:
        """Loads ``weights`` if they are newer, takes T steps in every stream and returns what is shipped of them. An actor that makes
        several contributions of the same steps takes none for the later ones.

        Raises:
            ValueError: if the weights are of another network.
            EnvironmentFailure: if the environment died.
        """
        started = time.perf_counter()
        wait_time = 0.0 if self._idle_since is None else started - self._idle_since
        self._load(weights)
        made = self._make()
        ages = self._ages.after(made.is_first.cpu(), self.policy_version)
        unsound, norms = self._reset_unsound(made)
        self._sequence += 1
        played, env_time = self.rollout.played(), self.rollout.env_time_s
        if not made.takes_steps:
            played, env_time = played.seen_before(), 0.0
        header = header_of(self.identity, self._sequence - 1, self.policy_version, played)
        of_streams = statistics_of_streams(
            played,
            carries_sensitivity=self.network.core.carries_sensitivity,
            begun_anew=unsound,
            norms=norms,
            ages=ages,
        )
        self._idle_since = time.perf_counter()
        statistics = UnrollStatistics(
            **made.statistics,
            **of_streams,
            env_time_s=env_time,
            act_time_s=made.acted_at - started - env_time,
            learn_time_s=self._idle_since - made.acted_at,
            wait_time_s=wait_time,
        )
        return self._message(header, made.payload, statistics)

    def _load(self, weights: WeightsSnapshot) -> None:
        if weights.layout != self.layout:
            raise ValueError(f"weights of network {weights.layout}, but this actor's network is {self.layout}")
        if weights.version > self.policy_version:
            self.parameters.load(weights.vector)
            self.policy_version = weights.version
            self.rollout.core = self.network.core.refreshed(self.rollout.core)

    def _reset_unsound(self, made: Made) -> tuple[Bool[Tensor, " B"], Float[Tensor, " B"]]:
        """Begins anew, inside their episode, the streams that nothing can be learnt from any more; the others go on.

        Returns which they are, and the norm of each stream's sensitivity before, 0 without one.
        """
        core = self.rollout.core
        norms = self.network.core.stream_norms(core.sensitivity)
        if norms is None:
            norms = torch.zeros(len(made.left_out), dtype=torch.float64, device=self.device)
        if not made.is_last:
            return torch.zeros_like(made.left_out), norms
        unsound = made.left_out | ~core._replace(sensitivity=None).finite_streams() | ~(norms <= LARGEST_SENSITIVITY)
        if unsound.any():
            self.rollout.begin_anew(unsound)
            self._ages.begin(unsound.cpu(), self.policy_version)
            self._began_anew(unsound)
        return unsound, norms

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit between two unrolls, or ``None`` where the environment cannot be saved."""
        state = self.rollout.get_state()
        if state is None:
            return None
        return {
            **state,
            "born": self._ages.born,
            "sequence": self._sequence,
            "incarnation": self.identity.incarnation,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where ``get_state`` was called, in an actor built with the same arguments."""
        self.rollout.set_state(state)
        self._ages.born = state["born"]
        self._sequence = state["sequence"]
        self.identity = self.identity._replace(incarnation=state["incarnation"])

    def close(self) -> None:
        self.rollout.close()
