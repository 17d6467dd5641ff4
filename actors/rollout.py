"""Collecting: B streams take T steps under a policy and leave an unroll. What becomes of it is the algorithm's business.

observation -> stem -> core input x_t -> cell c_t -> policy, value -> action -> environment        T times
"""

import time
from typing import Any

import numpy as np
import torch

from actors.accounts import EpisodeAccounts
from actors.stem import Stem, StepInput
from actors.unroll import Unroll
from conf.knobs import ConfigError
from envs.base import Timestep, VectorEnv
from rtrl_core import CoreState, PolicyNetwork, carried, clip_rewards
from rtrl_core.shapes import Bool, Shaped, Tensor


class Rollout:
    """The streams of one actor, and what goes on from unroll to unroll in each of them.

    Args:
        env: owned by the rollout from here on.
        unroll_length: T.
        reward_clip: what loss and core see of a reward, see ``clip_rewards``.
        action_seed: of the actions that are drawn.
    """

    def __init__(
        self,
        env: VectorEnv,
        network: PolicyNetwork,
        *,
        unroll_length: int,
        reward_clip: str,
        action_seed: int,
        device: torch.device,
    ) -> None:
        self.env = env
        self.episodes = EpisodeAccounts(env.num_envs, len(env.spec.levels))
        self.env_time_s = 0.0
        """Spent in the environment during the last unroll."""
        self.core: CoreState = network.initial_state(env.num_envs)
        """What the core carries. Acting advances its cell alone: whoever differentiates an unroll puts the whole of it back."""
        self._network = network
        self._reward_clip = reward_clip
        self._device = device
        self._noise = torch.Generator(device).manual_seed(action_seed)
        self._last_action = self._tensor(env.spec.actions.zeros(env.num_envs))
        self._last_reward = torch.zeros(env.num_envs, device=device)
        self.unroll = Unroll.empty(unroll_length, network.input_size, self._last_action, self.core)
        """The last one; the next overwrites its rows."""
        self._now = env.reset()

    def step_input(self) -> StepInput:
        """What the network sees next."""
        return self._step_input(self._now)

    def collect(self, stem: Stem) -> Unroll:
        """Takes T steps in every stream, with the network's present weights. The rows are overwritten by the next call.

        Args:
            stem: keeps of each step what its own backward pass will need.

        Raises:
            EnvironmentFailure: if the environment died.
        """
        rows, self.env_time_s = self.unroll, 0.0
        rows.before, cell = self.core, self.core.cell
        self.episodes.clear()
        for t in range(rows.num_steps):
            step = self._step_input(self._now)
            inputs = stem.inputs(step)
            rows.inputs[t] = inputs
            rows.is_first[t] = step.is_first
            output, cell = self._network.act(inputs, cell, step.is_first)
            rows.values[t] = output.values
            action = self._network.distribution.sample(output.parameters, self._noise)
            rows.actions[t] = action

            before = time.perf_counter()
            self._now = self.env.step(action.cpu().numpy())
            self.env_time_s += time.perf_counter() - before

            self._last_action = action
            self._last_reward = clip_rewards(self._tensor(self._now.reward), self._reward_clip)
            rows.rewards[t] = self._last_reward
            rows.terminated[t] = self._tensor(self._now.terminated)
            rows.truncated[t] = self._tensor(self._now.truncated)
            rows.valid[t] = self._tensor(self._now.valid)
            self.episodes.record(self._now)
            self._bootstrap_truncated(t, stem, cell)
        self._bootstrap_inside(stem, cell)
        self.core = self.core._replace(cell=cell)
        return rows

    @torch.no_grad()
    def _bootstrap_truncated(self, t: int, stem: Stem, cell: Any) -> None:
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
        self.unroll.next_values[t, rows] = self._value(stem, goes_on, carried.select(cell, rows))

    @torch.no_grad()
    def _bootstrap_inside(self, stem: Stem, cell: Any) -> None:
        """``V(o_{t+1})`` everywhere else; beyond the last row it takes one more look, which the next unroll repeats and keeps."""
        rows = self.unroll
        following = torch.cat([rows.values[1:], self._value(stem, self._step_input(self._now), cell).unsqueeze(0)])
        starts = torch.cat([rows.is_first[1:], self._tensor(self._now.is_first).unsqueeze(0)])
        rows.next_values = torch.where(rows.truncated & starts, rows.next_values, following)

    def _value(self, stem: Stem, step: StepInput, cell: Any) -> Tensor:
        return self._network.act(stem.look(step), cell, step.is_first)[0].values

    def begin_anew(self, streams: Bool[Tensor, " B"]) -> None:
        """Forgets what these streams carry, inside their episode, whatever it is; the games go on."""
        self.core = self.core.reset(streams)
        self._last_reward = self._last_reward.masked_fill(streams, 0)
        self._last_action = torch.where(streams.view(-1, *[1] * (self._last_action.ndim - 1)), 0, self._last_action)

    def _step_input(self, timestep: Timestep) -> StepInput:
        return StepInput(
            self._tensor(timestep.observation),
            self._last_reward,
            self._last_action,
            self._tensor(timestep.is_first),
            None if timestep.instruction is None else self._tensor(timestep.instruction),
        )

    def _tensor(self, array: np.ndarray) -> Shaped[Tensor, "B ..."]:
        return torch.from_numpy(array).to(self._device)

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit between two unrolls, or ``None`` where the environment cannot be saved."""
        env_state = self.env.get_state()
        if env_state is None:
            return None
        return {
            "env": env_state,
            "now": {name: value for name, value in self._now._asdict().items() if value is not None},
            **carried.save(self.core),
            "last_action": self._last_action,
            "last_reward": self._last_reward,
            "noise": self._noise.get_state(),
            "episodes": self.episodes.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where ``get_state`` was called, in a rollout built with the same arguments.

        Raises:
            ConfigError: if what was saved is of another network.
        """
        self.env.set_state(state["env"])
        self._now = Timestep(**state["now"])
        try:
            self.core = carried.load(self.core, state)
        except (
            ValueError
        ) as error:  # of a part of a user's own that was changed: its parameters may be the same all the same
            raise ConfigError(
                f"the saved state of an actor does not fit this network: {error}; go on with the code it was trained with"
            ) from None
        self._last_action = state["last_action"].to(self._device)
        self._last_reward = state["last_reward"].to(self._device)
        self._noise.set_state(state["noise"])
        self.episodes.set_state(state["episodes"])

    def close(self) -> None:
        self.env.close()
