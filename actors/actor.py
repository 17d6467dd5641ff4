"""The actor: B streams, one network, and every unroll turned into one exact gradient contribution.

    step    observation -> stem -> core input x_t -> cell c_t -> policy, value -> action -> environment        T times
    learn   x_1..x_T -> core (segment identity, carried sensitivity) -> loss -> gradient of core, heads, x_t
            gradient of x_t -> stem
    ship    one flat vector, summed over steps and streams

Nothing else leaves: observations, cell states and sensitivities stay here. Plain Python, one process; ``fleet.py`` distributes it.
"""

import time
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from actors.build import build_seeded_network
from actors.gradients import UnrollGradient, unroll_gradient
from actors.precision import carries_bfloat16_well, require_device
from actors.stem import StepInput, choose_stem
from actors.unroll import EpisodeAccounts, Unroll
from actors.wire import WireEncoder
from conf.schema import ActorsConfig, LossConfig, NetworkConfig
from envs.base import Timestep, VectorEnv
from rtrl_core import (
    ContributionHeader,
    CoreState,
    FlatParameters,
    GradientContribution,
    Sensitivity,
    UnrollStatistics,
    WeightsSnapshot,
    clip_rewards,
)
from rtrl_core.shapes import Shaped, Tensor

LARGEST_SENSITIVITY = 1e18
"""Norm of a stream's sensitivity beyond which the stream begins anew. Squares of such numbers, and products of two, are no longer
finite in float32; long before, they have lost all precision."""


class ActorIdentity(NamedTuple):
    actor_id: int
    incarnation: int
    """Starts of this actor: one that was respawned draws new seeds and counts its unrolls anew."""
    seed: int
    """Of the run."""

    def spawn_seed(self, purpose: int) -> int:
        """A seed that no other actor, incarnation or purpose shares."""
        return int(
            np.random.SeedSequence([self.seed, self.actor_id, self.incarnation, purpose]).generate_state(1)[0] >> 1
        )

    @property
    def env_seed(self) -> int:
        return self.spawn_seed(0)

    @property
    def action_seed(self) -> int:
        return self.spawn_seed(1)


class Actor:
    """Turns weights into gradient contributions, one unroll at a time.

    Args:
        env: owned by the actor from here on.
        reward_clip: what loss and core see of a reward, see ``clip_rewards``.
        rule: learning rule, a name in ``RULES``.

    Raises:
        ValueError: if the network does not fit the environment.
        ConfigError: if the device is not there.
    """

    def __init__(
        self,
        identity: ActorIdentity,
        env: VectorEnv,
        network: NetworkConfig,
        rule: str,
        loss: LossConfig,
        options: ActorsConfig,
        reward_clip: str,
    ) -> None:
        self.identity = identity
        self.env = env
        self._loss = loss
        self._reward_clip = reward_clip
        self._unroll_length = options.unroll
        self.device = require_device("actors.device", options.device)
        self.network = build_seeded_network(network, rule, env.spec, identity.seed).to(self.device)
        self.parameters = FlatParameters(self.network)
        self.policy_version = -1
        """Of the weights that act; none has been loaded yet, whatever the version of the first ones may be."""
        self._sequence = 0
        self._noise = torch.Generator(self.device).manual_seed(identity.action_seed)
        self._wire = WireEncoder(options.wire, self.parameters.gradient)
        self._episodes = EpisodeAccounts(env.num_envs, len(env.spec.levels))

        self._core = self.network.initial_state(env.num_envs)
        sensitivity = self._core.sensitivity
        self._spare = sensitivity.empty_like() if sensitivity is not None and options.unroll > 1 else None
        # Policy version at which each stream's present episode began: the oldest weights inside its sensitivity.
        self._born = torch.zeros(env.num_envs, dtype=torch.int64)
        first_actions = self._tensor(env.spec.actions.zeros(env.num_envs))
        self._last_action = first_actions
        self._last_reward = torch.zeros(env.num_envs, device=self.device)
        self._unroll = Unroll(options.unroll, env.num_envs, self.network.input_size, first_actions)
        self._now = env.reset()
        autocast = {
            "float32": None,
            "bfloat16": torch.bfloat16,
            "auto": torch.bfloat16 if carries_bfloat16_well(self.device) else None,
        }[options.autocast]
        self._stem = choose_stem(
            self.network,
            activations=options.activations,
            budget_bytes=options.activation_budget_bytes,
            autocast=autocast,
            unroll=options.unroll,
            example=self._step_input(self._now),
        )
        self._bfloat16 = autocast is not None
        self._process = psutil.Process()
        self._idle_since: float | None = None
        """Before its first unroll it waits for others to start, not for weights."""

    def unroll(self, weights: WeightsSnapshot) -> GradientContribution:
        """Loads ``weights`` if they are newer, takes T steps in every stream and returns the exact gradient of the unroll's loss.

        Raises:
            ValueError: if the weights are of another network.
            EnvironmentFailure: if the environment died.
        """
        started = time.perf_counter()
        wait_time = 0.0 if self._idle_since is None else started - self._idle_since
        self._load(weights)
        self._episodes.clear()
        before = self._core
        env_time = self._act()
        acted = time.perf_counter()
        learnt = self._learn(before)
        gradient = self._wire.encode(self.parameters.gradient)
        is_first = self._unroll.is_first.cpu()
        self._born[is_first[0]] = self.policy_version
        ages = (self.policy_version - self._born).clamp_(min=0)
        self._born[is_first.any(0)] = self.policy_version
        unsound, norms = self._reset_unsound(learnt.left_out)
        header = ContributionHeader(
            actor_id=self.identity.actor_id,
            incarnation=self.identity.incarnation,
            sequence=self._sequence,
            policy_version=self.policy_version,
            num_steps=self._episodes.num_steps,
            num_frames=self._episodes.num_steps * self.env.spec.action_repeat,
            num_segments=self.env.num_envs,
        )
        self._sequence += 1
        self._idle_since = time.perf_counter()
        sensitivity, losses = self._core.sensitivity, learnt.losses
        norms = norms[norms.isfinite()]
        statistics = UnrollStatistics(
            policy_loss=float(losses.policy),
            value_loss=float(losses.value),
            entropy=float(losses.entropy),
            target_sum=float(learnt.targets.sum()),
            target_square_sum=float(learnt.targets.square().sum()),
            error_square_sum=2 * float(losses.value),
            sensitivity_norm=float(norms.square().mean().sqrt()) if len(norms) else 0.0,
            sensitivity_norm_max=float(norms.max()) if len(norms) else 0.0,
            streams_reset=int(unsound.sum()),
            sensitivity_age_mean=0.0 if sensitivity is None else float(ages.float().mean()),
            sensitivity_age_max=0 if sensitivity is None else int(ages.max()),
            env_time_s=env_time,
            act_time_s=acted - started - env_time,
            learn_time_s=self._idle_since - acted,
            wait_time_s=wait_time,
            rss_bytes=self._process.memory_info().rss,
            episodes=tuple(self._episodes.episodes),
            level_steps=tuple(self._episodes.level_steps.tolist()),
            env_counters=dict(self.env.statistics()),
            bfloat16=self._bfloat16,
        )
        return GradientContribution(header, self.parameters.layout.fingerprint, gradient, statistics)

    def _load(self, weights: WeightsSnapshot) -> None:
        if weights.layout != self.parameters.layout.fingerprint:
            raise ValueError(
                f"weights of network {weights.layout}, but this actor's network is {self.parameters.layout.fingerprint}"
            )
        if weights.version > self.policy_version:
            self.parameters.load(weights.vector)
            self.policy_version = weights.version

    def _act(self) -> float:
        """Fills the unroll's rows; returns the seconds spent in the environment."""
        rows, env_time = self._unroll, 0.0
        cell = self._core.cell
        for t in range(self._unroll_length):
            step = self._step_input(self._now)
            inputs = self._stem.inputs(step)
            rows.inputs[t] = inputs
            rows.is_first[t] = step.is_first
            output, cell = self.network.act(inputs, cell, step.is_first)
            rows.values[t] = output.values
            action = self.network.distribution.sample(output.parameters, self._noise)
            rows.actions[t] = action

            before = time.perf_counter()
            self._now = self.env.step(action.cpu().numpy())
            env_time += time.perf_counter() - before

            self._last_action = action
            self._last_reward = clip_rewards(self._tensor(self._now.reward), self._reward_clip)
            rows.rewards[t] = self._last_reward
            rows.terminated[t] = self._tensor(self._now.terminated)
            rows.truncated[t] = self._tensor(self._now.truncated)
            rows.valid[t] = self._tensor(self._now.valid)
            self._episodes.record(self._now)
            self._bootstrap_truncated(t, cell)
        self._bootstrap_inside(cell)
        self._core = self._core._replace(cell=cell)
        return env_time

    @torch.no_grad()
    def _bootstrap_truncated(self, t: int, cell: Tensor) -> None:
        """The value of the final observation, in the streams whose episode was cut off and already shows the next one's first."""
        final = self._now.final_observation
        cut = self._now.truncated & self._now.is_first
        if final is None or not cut.any():
            return
        rows = self._tensor(cut)
        step = self._step_input(self._now)
        instruction = self._now.final_instruction
        goes_on = StepInput(
            self._tensor(final)[rows],
            step.last_reward[rows],
            step.last_action[rows],
            torch.zeros_like(step.is_first[rows]),
            None if instruction is None else self._tensor(instruction)[rows],
        )
        self._unroll.next_values[t, rows] = self._value(goes_on, cell[rows])

    @torch.no_grad()
    def _bootstrap_inside(self, cell: Tensor) -> None:
        """``V(o_{t+1})`` everywhere else; beyond the last row it takes one more look, which the next unroll repeats and keeps."""
        rows = self._unroll
        following = torch.cat([rows.values[1:], self._value(self._step_input(self._now), cell).unsqueeze(0)])
        starts = torch.cat([rows.is_first[1:], self._tensor(self._now.is_first).unsqueeze(0)])
        rows.next_values = torch.where(rows.truncated & starts, rows.next_values, following)

    def _value(self, step: StepInput, cell: Tensor) -> Tensor:
        return self.network.act(self._stem.look(step), cell, step.is_first)[0].values

    def _learn(self, before: CoreState) -> UnrollGradient:
        """Leaves the gradient of the unroll in ``self.parameters.gradient`` and advances the sensitivity."""
        # A single step may advance its sensitivity in place; longer unrolls need the old one until their backward pass.
        out = before.sensitivity if self._unroll_length == 1 else self._spare
        gradient = unroll_gradient(self.network, self.parameters, self._unroll, before, self._loss, out)
        self._stem.backward(gradient.inputs)
        self._core = gradient.after
        if self._unroll_length > 1:
            self._spare = before.sensitivity
        return gradient

    def _reset_unsound(self, left_out: Tensor) -> tuple[Tensor, Tensor]:
        """Begins anew, inside their episode, the streams that nothing can be learnt from any more; the others go on.

        Returns which they are, and the norm of each stream's sensitivity before, 0 without one.
        """
        core = self._core
        none = torch.zeros(self.env.num_envs, dtype=torch.float64, device=self.device)
        norms = none if core.sensitivity is None else core.sensitivity.stream_norms()
        unsound = left_out | ~core.cell.isfinite().all(1) | ~(norms <= LARGEST_SENSITIVITY)
        if unsound.any():
            self._core = core.reset(unsound)
            self._last_reward = self._last_reward.masked_fill(unsound, 0)
            self._last_action = torch.where(unsound.view(-1, *[1] * (self._last_action.ndim - 1)), 0, self._last_action)
            self._born[unsound.cpu()] = self.policy_version
        return unsound, norms

    def _step_input(self, timestep: Timestep) -> StepInput:
        return StepInput(
            self._tensor(timestep.observation),
            self._last_reward,
            self._last_action,
            self._tensor(timestep.is_first),
            None if timestep.instruction is None else self._tensor(timestep.instruction),
        )

    def _tensor(self, array: np.ndarray) -> Shaped[Tensor, "B ..."]:
        return torch.from_numpy(array).to(self.device)

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit between two unrolls, or ``None`` where the environment cannot be saved."""
        env_state = self.env.get_state()
        if env_state is None:
            return None
        sensitivity = self._core.sensitivity
        return {
            "env": env_state,
            "now": {name: value for name, value in self._now._asdict().items() if value is not None},
            "cell": self._core.cell,
            "sensitivity": {} if sensitivity is None else sensitivity.state_dict(),
            "last_action": self._last_action,
            "last_reward": self._last_reward,
            "born": self._born,
            "noise": self._noise.get_state(),
            "episodes": self._episodes.get_state(),
            "wire": self._wire.get_state(),
            "sequence": self._sequence,
            "incarnation": self.identity.incarnation,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where ``get_state`` was called, in an actor built with the same arguments."""
        self.env.set_state(state["env"])
        self._now = Timestep(**state["now"])
        sensitivity = self._core.sensitivity
        self._core = CoreState(
            state["cell"].to(self.device),
            None if sensitivity is None else Sensitivity.from_state_dict(state["sensitivity"]).to(self.device),
        )
        self._last_action = state["last_action"].to(self.device)
        self._last_reward = state["last_reward"].to(self.device)
        self._born = state["born"]
        self._noise.set_state(state["noise"])
        self._episodes.set_state(state["episodes"])
        self._wire.set_state(state["wire"])
        self._sequence = state["sequence"]
        self.identity = self.identity._replace(incarnation=state["incarnation"])

    def close(self) -> None:
        self.env.close()
