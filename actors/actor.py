"""The actor of R2AC: it collects an unroll, turns it into one exact gradient, and ships that.

    collect   rollout: T steps in B streams
    learn     x_1..x_T -> core (carried sensitivity) -> loss -> gradient of core, heads, x_t; gradient of x_t -> stem
    ship      one flat vector, summed over steps and streams

Nothing else leaves: observations, cell states and sensitivities stay here. With several passes, the second line and the third are done
again with the steps of the first (``kept.py``), each time under the newest weights, before the next ones are taken.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from actors.acting import Acting
from actors.base_actor import BaseActor, Made
from actors.fidelity import FidelityProbe, Figures
from actors.gradients import Differentiable, Differentiation, UnrollGradient, importance, unroll_gradient
from actors.kept import KeptUnroll
from actors.opening import open_actor
from actors.precision import autocast_type
from actors.recorded import RecordedActing, RecordedDifferentiation, choose_passes, choose_recorded_stem
from actors.replay import ReplayedStem
from actors.stem import StemOfGroups, StemPass, choose_stem, rows_at_once
from actors.trajectory import Recorder
from actors.unroll import Unroll
from actors.wire import WireEncoder
from actors.worker import ActorIdentity
from conf.schema import ActorsConfig, LossConfig, NetworkConfig, RuleConfig, TrainConfig
from envs.base import VectorEnv
from rtrl_core import (
    ContributionHeader,
    GradientContribution,
    UnrollStatistics,
)
from rtrl_core.fidelity import Fidelity
from rtrl_core.shapes import Bool, Tensor
from rtrl_core.untyped import numbers


class Actor(BaseActor[GradientContribution]):
    """Turns weights into gradient contributions: the exact gradient of each unroll's loss. Arguments and errors as ``BaseActor``.

    Args:
        passes: contributions of each unroll.
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
        passes: int = 1,
    ) -> None:
        super().__init__(identity, envs, network, rule, options, reward_clip)
        self._num_passes, self._clip_ratio = passes, loss.clip_ratio
        self._kept: KeptUnroll | None = None
        """What there are still passes to come of."""
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
        self._in_place = True
        """Whether the next backward pass advances the sensitivity; otherwise it stays that of the start."""
        self._wire = WireEncoder(options.wire, self.parameters.gradient)
        autocast = autocast_type(options.autocast, self.device)
        step, cell = self.rollout.example()
        self._differentiation = Differentiation(self.network, self.parameters, loss)
        graphs = "never" if (options.activations, options.cuda_graphs) == ("retain", "auto") else options.cuda_graphs
        recorded = choose_passes(StemPass(self.network, autocast), graphs, step, cell)
        if recorded is None:
            self.stem = choose_stem(
                self.network,
                activations=options.activations,
                budget_bytes=options.activation_budget_bytes,
                autocast=autocast,
                passes=options.unroll * len(envs),
                example=step,
            )
            self._acting = Acting(self.network, self.stem)
        else:
            self.stem = choose_recorded_stem(recorded.forward, options.activation_budget_bytes, step)
            self._acting = RecordedActing(self.network, self.stem, recorded)
            if passes == 1:
                self._differentiation = RecordedDifferentiation(self._differentiation)
        self._arithmetic = {"bfloat16": autocast is not None, "cuda_graphs": recorded is not None}
        self._way_back = StemOfGroups(self.stem, self.rollout.streams)
        self._many_steps = ReplayedStem(self.stem, rows_at_once(self.device) // self.rollout.num_envs)

    def _make(self) -> Made:
        return self._first_pass() if self._kept is None else self._next_pass(self._kept)

    def _first_pass(self) -> Made:
        before, recorder = self.rollout.core, Recorder(self.rollout.groups)
        unroll = self.rollout.collect(self._acting, None if self._num_passes == 1 else recorder.look)
        acted_at = time.perf_counter()
        if self._num_passes > 1:
            recorded = recorder.recorded(before)
            log_probabilities = self.network.distribution.log_prob(recorded.parameters, recorded.actions)
            self._kept = KeptUnroll.of(recorded, log_probabilities, self._num_passes - 1)
        figures = Figures() if self._probe is None else self._probe.see(unroll)
        change, streams = self.rollout.policy_change()
        statistics = {
            "policy_change_sum": change,
            "policy_change_streams": streams,
            **_named("sensitivity_fidelity", figures.sensitivity),
            **_named("rule_fidelity", figures.rule),
        }
        return self._learn(unroll, self._way_back, acted_at, statistics)

    def _next_pass(self, kept: KeptUnroll) -> Made:
        started = time.perf_counter()
        unroll = kept.again(self.network, self._many_steps)
        if not kept.left:
            self._kept = None
        made = self._learn(unroll, self._many_steps, started, {})
        # Its losses are of steps that the first pass has told of.
        statistics = {**made.statistics, **importance(unroll, made.left_out, self._clip_ratio), "losses_known": False}
        return made._replace(statistics=statistics, takes_steps=False)

    def _learn(self, unroll: Unroll, stem: Differentiable, acted_at: float, statistics: dict[str, Any]) -> Made:
        is_last = self._kept is None
        if is_last and not self._in_place:
            self.network.core.advance_in_backward()
        elif not is_last and self._in_place:
            self.network.core.advance_in_forward()
        self._in_place = is_last
        learnt = unroll_gradient(self._differentiation, unroll, stem)
        if is_last:
            self.rollout.core = learnt.after
        gradient = self._wire.encode(self.parameters.gradient)
        statistics = {**statistics_of(learnt, unroll), **self._arithmetic, **statistics}
        return Made(gradient, unroll.is_first, learnt.left_out, acted_at, statistics, is_last=is_last)

    def _message(self, header: ContributionHeader, payload: Any, statistics: UnrollStatistics) -> GradientContribution:
        return GradientContribution(header, self.layout, payload, statistics)

    def _began_anew(self, streams: Bool[Tensor, " B"]) -> None:
        if self._probe is not None:
            self._probe.forget(streams)

    def get_state(self) -> dict[str, Any] | None:
        state = super().get_state()
        if state is None:
            return None
        kept = {} if self._kept is None else {"kept": self._kept.get_state()}
        return {**state, **kept, "wire": self._wire.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if self._probe is not None:
            self._probe.forget()
        self._wire.set_state(state["wire"])
        self._kept = KeptUnroll.from_state(state["kept"], self.rollout.core) if "kept" in state else None


def statistics_of(learnt: UnrollGradient, unroll: Unroll) -> dict[str, Any]:
    """The fields of ``UnrollStatistics`` that whoever learns from an unroll knows."""
    losses = learnt.losses
    size = unroll.inputs.square().mean().sqrt()
    parts = (losses.policy, losses.value, losses.entropy, learnt.target_sum, learnt.target_square_sum, size)
    policy, value, entropy, target_sum, target_square_sum, core_inputs_rms = numbers(torch.stack(parts))
    return {
        "policy_loss": policy,
        "value_loss": value,
        "entropy": entropy,
        "target_sum": target_sum,
        "target_square_sum": target_square_sum,
        "error_square_sum": 2 * value,
        "core_inputs_rms": core_inputs_rms,
        "losses_known": True,
    }


def _named(metric: str, fidelity: Fidelity | None) -> dict[str, float]:
    """The fields of ``UnrollStatistics``; none where nothing was measured."""
    return {} if fidelity is None else {f"{metric}_{name}": value for name, value in fidelity._asdict().items()}


def build_actor(
    config: TrainConfig,
    identity: ActorIdentity,
    state: dict[str, Any] | None = None,
    actor: type[Actor] = Actor,
    passes: int = 1,
) -> Actor:
    """Raises as ``open_actor``."""
    sections = (config.network, config.rule, config.loss, config.actors, config.env.reward_clip)
    return open_actor(config, identity, state, lambda envs: actor(identity, envs, *sections, passes=passes))
