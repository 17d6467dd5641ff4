"""The streams of one environment as a network sees them: what it observes, what it last did, and what that brought."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch

from actors.accounts import EpisodeAccounts, Played
from actors.stem import StepInput
from actors.uploads import Upload
from envs.base import Timestep, VectorEnv
from rtrl_core import clip_rewards
from rtrl_core.shapes import Bool, Float, Int, Shaped, Tensor


class Seen(NamedTuple):
    """What of a timestep is needed where the network is."""

    observation: Shaped[Tensor, "B ..."]
    reward: Float[Tensor, " B"]
    """Clipped."""
    is_first: Bool[Tensor, " B"]
    terminated: Bool[Tensor, " B"]
    truncated: Bool[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    instruction: Int[Tensor, "B L"] | None = None


class Games:
    """
    Args:
        env: owned by the games from here on.
        reward_clip: what loss and core see of a reward, see ``clip_rewards``.
        action_seed: of the actions that are drawn.
    """

    def __init__(self, env: VectorEnv, *, reward_clip: str, action_seed: int, device: torch.device) -> None:
        self.env = env
        self.episodes = EpisodeAccounts(env.num_envs, len(env.spec.levels))
        self.env_time_s = 0.0
        """Spent waiting for the environment since ``clear``."""
        self.noise = torch.Generator(device).manual_seed(action_seed)
        self._reward_clip = reward_clip
        self._device = device
        self._upload = Upload(device)
        self.last_action = self._begun = self.tensor(env.spec.actions.zeros(env.num_envs))
        self.last_reward = torch.zeros(env.num_envs, device=device)
        """Clipped."""
        self.now = env.reset()
        self._seen: tuple[Timestep, Seen] | None = None

    def step_input(self) -> StepInput:
        """What the network sees next."""
        seen = self.seen()
        return StepInput(seen.observation, self.last_reward, self.last_action, seen.is_first, seen.instruction)

    def seen(self) -> Seen:
        """Of ``now``; it travels once, when it is first asked for."""
        now = self.now
        if self._seen is None or self._seen[0] is not now:
            arrays = (now.observation, now.reward, now.is_first, now.terminated, now.truncated, now.valid)
            tensors = [torch.from_numpy(array) for array in (*arrays, now.instruction) if array is not None]
            tensors[1] = clip_rewards(tensors[1], self._reward_clip)
            self._seen = now, Seen(*self._upload(tensors))
        return self._seen[1]

    def take(self, action: Shaped[Tensor, "B ..."]) -> Timestep:
        """One step of every stream.

        Raises:
            EnvironmentFailure: if the environment died.
        """
        self.begin(action)
        return self.finish()

    def begin(self, action: Shaped[Tensor, "B ..."]) -> None:
        """First half of a step of every stream; ``finish`` is next. Raises as ``take``."""
        chosen = action.cpu().numpy()
        before = time.perf_counter()
        self.env.begin(chosen)
        self.env_time_s += time.perf_counter() - before
        self._begun = action

    def finish(self) -> Timestep:
        """Raises as ``take``."""
        before = time.perf_counter()
        self.now = self.env.finish()
        self.env_time_s += time.perf_counter() - before
        self.last_action = self._begun
        self.last_reward = self.seen().reward
        self.episodes.record(self.now)
        return self.now

    def cut_off(self) -> tuple[Bool[Tensor, " B"], StepInput] | None:
        """The streams whose episode was just cut off and that already show the next one's first observation, with what the network would
        have seen had it gone on; its rows mean something in those streams. ``None`` if there are none."""
        final = self.now.final_observation
        cut = self.now.truncated & self.now.is_first
        if final is None or not cut.any():
            return None
        step, instruction = self.step_input(), self.now.final_instruction
        return self.tensor(cut), step._replace(
            observation=self.tensor(final),
            is_first=torch.zeros_like(step.is_first),
            instruction=None if instruction is None else self.tensor(instruction),
        )

    def forget(self, streams: Bool[Tensor, " B"]) -> None:
        """What these streams last did, inside their episode; the games go on."""
        self.last_reward = self.last_reward.masked_fill(streams, 0)
        self.last_action = torch.where(streams.view(-1, *[1] * (self.last_action.ndim - 1)), 0, self.last_action)

    def clear(self) -> None:
        """Counts and times anew, as for each unroll; the games go on."""
        self.env_time_s = 0.0
        self.episodes.clear()

    def played(self) -> Played:
        """Since ``clear``."""
        steps, spec = self.episodes.num_steps, self.env.spec
        return Played(
            self.env.num_envs,
            steps,
            steps * spec.action_repeat,
            tuple(self.episodes.episodes),
            tuple(self.episodes.level_steps.tolist()),
            dict(self.env.statistics()),
        )

    def tensor(self, array: np.ndarray) -> Shaped[Tensor, "B ..."]:
        return torch.from_numpy(array).to(self._device)

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit between two steps, or ``None`` where the environment cannot be saved."""
        env_state = self.env.get_state()
        if env_state is None:
            return None
        return {
            "env": env_state,
            "now": {name: value for name, value in self.now._asdict().items() if value is not None},
            "last_action": self.last_action,
            "last_reward": self.last_reward.clone(),  # it may lie in one memory with all else that has travelled with it
            "noise": self.noise.get_state(),
            "episodes": self.episodes.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where ``get_state`` was called, in games built with the same arguments."""
        self.env.set_state(state["env"])
        self.now = Timestep(**state["now"])
        self.last_action = state["last_action"].to(self._device)
        self.last_reward = state["last_reward"].to(self._device)
        self.noise.set_state(state["noise"])
        self.episodes.set_state(state["episodes"])

    def close(self) -> None:
        self.env.close()
