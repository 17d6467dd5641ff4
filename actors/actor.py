"""The actor of R2AC: it collects an unroll, turns it into one exact gradient, and ships that.

    collect   rollout: T steps in B streams
    learn     x_1..x_T -> core (carried sensitivity) -> loss -> gradient of core, heads, x_t; gradient of x_t -> stem
    ship      one flat vector, summed over steps and streams

Nothing else leaves: observations, cell states and sensitivities stay here.
"""

import time
from typing import Any

import torch

from actors.accounts import SensitivityAges
from actors.build import build_seeded_network, carry_refreshed
from actors.fidelity import FidelityProbe, Figures
from actors.gradients import UnrollGradient, unroll_gradient
from actors.precision import carries_bfloat16_well, require_device
from actors.reporting import header_of, statistics_of_streams
from actors.rollout import Rollout
from actors.stem import choose_stem
from actors.wire import WireEncoder
from actors.worker import ActorIdentity
from conf.schema import ActorsConfig, LossConfig, NetworkConfig, RuleConfig, TrainConfig
from envs.base import VectorEnv
from envs.registry import make_env
from rtrl_core import (
    FlatParameters,
    GradientContribution,
    UnrollStatistics,
    WeightsSnapshot,
)
from rtrl_core.fidelity import Fidelity
from rtrl_core.shapes import Bool, Float, Int, Tensor

LARGEST_SENSITIVITY = 1e18
"""Norm of a stream's sensitivity beyond which the stream begins anew. Squares of such numbers, and products of two, are no longer
finite in float32; long before, they have lost all precision."""


class Actor:
    """Turns weights into gradient contributions, one unroll at a time.

    Args:
        env: owned by the actor from here on.
        reward_clip: what loss and core see of a reward, see ``clip_rewards``.

    Raises:
        ValueError: if the network does not fit the environment.
        ConfigError: if the device is not there, or ``rule.refresh`` does not fit.
    """

    def __init__(
        self,
        identity: ActorIdentity,
        env: VectorEnv,
        network: NetworkConfig,
        rule: RuleConfig,
        loss: LossConfig,
        options: ActorsConfig,
        reward_clip: str,
    ) -> None:
        self.identity = identity
        self._loss = loss
        self.device = require_device("actors.device", options.device)
        self.network = build_seeded_network(network, rule, env.spec, identity.seed).to(self.device)
        carry_refreshed(self.network, network, rule, options.unroll)
        self._probe: FidelityProbe | None = None
        if options.fidelity_every and self.network.core.carries_sensitivity:
            self._probe = FidelityProbe(
                self.network,
                loss,
                every=options.fidelity_every,
                longest=options.fidelity_steps,
                seed=identity.fidelity_seed,
            )
        self.network.core.advance_in_backward()
        self.parameters = FlatParameters(self.network)
        self.policy_version = -1
        """Of the weights that act; none has been loaded yet, whatever the version of the first ones may be."""
        self._sequence = 0
        self._wire = WireEncoder(options.wire, self.parameters.gradient)
        self._ages = SensitivityAges(env.num_envs)
        self.rollout = Rollout(
            env,
            self.network,
            unroll_length=options.unroll,
            reward_clip=reward_clip,
            action_seed=identity.action_seed,
            device=self.device,
        )
        autocast = {
            "float32": None,
            "bfloat16": torch.bfloat16,
            "auto": torch.bfloat16 if carries_bfloat16_well(self.device) else None,
        }[options.autocast]
        self._bfloat16 = autocast is not None
        self.stem = choose_stem(
            self.network,
            activations=options.activations,
            budget_bytes=options.activation_budget_bytes,
            autocast=autocast,
            unroll=options.unroll,
            example=self.rollout.step_input(),
        )
        self._idle_since: float | None = None
        """Before its first unroll it waits for others to start, not for weights."""

    @property
    def layout(self) -> str:
        return self.parameters.layout.fingerprint

    def unroll(self, weights: WeightsSnapshot) -> GradientContribution:
        """Loads ``weights`` if they are newer, takes T steps in every stream and returns the exact gradient of the unroll's loss.

        Raises:
            ValueError: if the weights are of another network.
            EnvironmentFailure: if the environment died.
        """
        started = time.perf_counter()
        wait_time = 0.0 if self._idle_since is None else started - self._idle_since
        self._load(weights)
        unroll = self.rollout.collect(self.stem)
        acted = time.perf_counter()
        figures = Figures() if self._probe is None else self._probe.see(unroll)
        learnt = unroll_gradient(self.network, self.parameters, unroll, self._loss, self.stem)
        self.rollout.core = learnt.after
        gradient = self._wire.encode(self.parameters.gradient)
        ages = self._ages.after(unroll.is_first.cpu(), self.policy_version)
        unsound, norms = self._reset_unsound(learnt.left_out)
        self._sequence += 1
        header = header_of(
            self.identity, self._sequence - 1, self.policy_version, self.rollout.env, self.rollout.episodes
        )
        self._idle_since = time.perf_counter()
        times = {
            "env_time_s": self.rollout.env_time_s,
            "act_time_s": acted - started - self.rollout.env_time_s,
            "learn_time_s": self._idle_since - acted,
            "wait_time_s": wait_time,
        }
        statistics = self._statistics(learnt, unsound, norms, ages, figures, times)
        return GradientContribution(header, self.layout, gradient, statistics)

    def _load(self, weights: WeightsSnapshot) -> None:
        if weights.layout != self.layout:
            raise ValueError(f"weights of network {weights.layout}, but this actor's network is {self.layout}")
        if weights.version > self.policy_version:
            self.parameters.load(weights.vector)
            self.policy_version = weights.version
            self.rollout.core = self.network.core.refreshed(self.rollout.core)

    def _reset_unsound(self, left_out: Bool[Tensor, " B"]) -> tuple[Bool[Tensor, " B"], Float[Tensor, " B"]]:
        """Begins anew, inside their episode, the streams that nothing can be learnt from any more; the others go on.

        Returns which they are, and the norm of each stream's sensitivity before, 0 without one.
        """
        core = self.rollout.core
        norms = self.network.core.stream_norms(core.sensitivity)
        if norms is None:
            norms = torch.zeros(len(left_out), dtype=torch.float64, device=self.device)
        unsound = left_out | ~core._replace(sensitivity=None).finite_streams() | ~(norms <= LARGEST_SENSITIVITY)
        if unsound.any():
            self.rollout.begin_anew(unsound)
            self._ages.begin(unsound.cpu(), self.policy_version)
            if self._probe is not None:
                self._probe.forget(unsound)
        return unsound, norms

    def _statistics(
        self,
        learnt: UnrollGradient,
        unsound: Bool[Tensor, " B"],
        norms: Float[Tensor, " B"],
        ages: Int[Tensor, " B"],
        figures: Figures,
        times: dict[str, float],
    ) -> UnrollStatistics:
        losses = learnt.losses
        of_streams = statistics_of_streams(
            self.rollout.env,
            self.rollout.episodes,
            carries_sensitivity=self.network.core.carries_sensitivity,
            begun_anew=unsound,
            norms=norms,
            ages=ages,
        )
        return UnrollStatistics(
            policy_loss=float(losses.policy),
            value_loss=float(losses.value),
            entropy=float(losses.entropy),
            target_sum=float(learnt.targets.sum()),
            target_square_sum=float(learnt.targets.square().sum()),
            error_square_sum=2 * float(losses.value),
            bfloat16=self._bfloat16,
            **_named("sensitivity_fidelity", figures.sensitivity),
            **_named("rule_fidelity", figures.rule),
            **{**of_streams, **times},
        )

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit between two unrolls, or ``None`` where the environment cannot be saved."""
        state = self.rollout.get_state()
        if state is None:
            return None
        return {
            **state,
            "born": self._ages.born,
            "wire": self._wire.get_state(),
            "sequence": self._sequence,
            "incarnation": self.identity.incarnation,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where ``get_state`` was called, in an actor built with the same arguments."""
        self.rollout.set_state(state)
        if self._probe is not None:
            self._probe.forget()
        self._ages.born = state["born"]
        self._wire.set_state(state["wire"])
        self._sequence = state["sequence"]
        self.identity = self.identity._replace(incarnation=state["incarnation"])

    def close(self) -> None:
        self.rollout.close()


def _named(metric: str, fidelity: Fidelity | None) -> dict[str, float]:
    """The fields of ``UnrollStatistics``; none where nothing was measured."""
    return {} if fidelity is None else {f"{metric}_{name}": value for name, value in fidelity._asdict().items()}


def build_actor(
    config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None = None, actor: type[Actor] = Actor
) -> Actor:
    """Raises ``UnknownEnvironment``, ``MissingDependency`` or ``ValueError`` for a configuration that cannot work,
    ``EnvironmentFailure`` if the environment does not start."""
    env = make_env(config.env, config.actors.num_envs, identity.env_seed)
    try:
        sections = (config.network, config.rule, config.loss, config.actors, config.env.reward_clip)
        built = actor(identity, env, *sections)
        if state is not None:
            built.set_state(state)
    except Exception:
        env.close()
        raise
    return built
