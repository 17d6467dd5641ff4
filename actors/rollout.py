"""Collecting: B streams take T steps under a policy and leave an unroll. What becomes of it is the algorithm's business.

observation -> stem -> core input x_t -> cell c_t -> policy, value -> action -> environment        T times
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from actors.accounts import EpisodeAccounts
from actors.games import Games
from actors.stem import Stem, StepInput
from actors.unroll import Unroll
from conf.knobs import ConfigError
from envs.base import Timestep, VectorEnv
from rtrl_core import CoreState, PolicyNetwork, PolicyOutput, carried
from rtrl_core.shapes import Bool, Float, Shaped, Tensor


class Taken(NamedTuple):
    """One step of all streams. What it brought is in the games until the next one is taken."""

    seen: StepInput
    inputs: Float[Tensor, "B D"]
    """Of the core."""
    output: PolicyOutput
    action: Shaped[Tensor, "B ..."]
    now: Timestep
    cell: Any
    """Of the core, after the step."""


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
        self.core: CoreState = network.initial_state(env.num_envs)
        """What the core carries. Acting advances its cell alone: whoever differentiates an unroll puts the whole of it back."""
        self._network = network
        self._unroll_length = unroll_length
        self.games = Games(env, reward_clip=reward_clip, action_seed=action_seed, device=device)
        self.unroll = Unroll.empty(unroll_length, network.input_size, self.games.last_action, self.core)
        """The last one; the next overwrites its rows."""

    @property
    def env(self) -> VectorEnv:
        return self.games.env

    @property
    def episodes(self) -> EpisodeAccounts:
        return self.games.episodes

    @property
    def env_time_s(self) -> float:
        """Spent in the environment during the last unroll."""
        return self.games.env_time_s

    def step_input(self) -> StepInput:
        """What the network sees next."""
        return self.games.step_input()

    def steps(self, stem: Stem) -> Iterator[Taken]:
        """Takes T steps in every stream, with the network's present weights, one each time that it is asked for the next.

        Args:
            stem: keeps of each step what its own backward pass will need.

        Raises:
            EnvironmentFailure: if the environment died.
        """
        games, cell = self.games, self.core.cell
        games.env_time_s = 0.0
        games.episodes.clear()
        for _ in range(self._unroll_length):
            step = games.step_input()
            inputs = stem.inputs(step)
            output, cell = self._network.act(inputs, cell, step.is_first)
            action = self._network.distribution.sample(output.parameters, games.noise)
            now = games.take(action)
            yield Taken(step, inputs, output, action, now, cell)
        self.core = self.core._replace(cell=cell)

    def collect(self, stem: Stem) -> Unroll:
        """All of the steps, with the values of what followed them. The rows are overwritten by the next call.

        Raises:
            EnvironmentFailure: if the environment died.
        """
        games, rows = self.games, self.unroll
        rows.before = self.core
        for t, taken in enumerate(self.steps(stem)):
            rows.inputs[t] = taken.inputs
            rows.is_first[t] = taken.seen.is_first
            rows.values[t] = taken.output.values
            rows.actions[t] = taken.action
            rows.rewards[t] = games.last_reward
            rows.terminated[t] = games.tensor(taken.now.terminated)
            rows.truncated[t] = games.tensor(taken.now.truncated)
            rows.valid[t] = games.tensor(taken.now.valid)
            self._bootstrap_truncated(t, stem, taken.cell)
        self._bootstrap_inside(stem, self.core.cell)
        return rows

    @torch.no_grad()
    def _bootstrap_truncated(self, t: int, stem: Stem, cell: Any) -> None:
        """The value of the final observation, in the streams whose episode was cut off and already shows the next one's first."""
        found = self.games.cut_off()
        if found is None:
            return
        rows, step = found
        self.unroll.next_values[t, rows] = self._value(stem, step.of(rows), carried.select(cell, rows))

    @torch.no_grad()
    def _bootstrap_inside(self, stem: Stem, cell: Any) -> None:
        """``V(o_{t+1})`` everywhere else; beyond the last row it takes one more look, which the next unroll repeats and keeps."""
        rows, step = self.unroll, self.games.step_input()
        following = torch.cat([rows.values[1:], self._value(stem, step, cell).unsqueeze(0)])
        starts = torch.cat([rows.is_first[1:], step.is_first.unsqueeze(0)])
        rows.next_values = torch.where(rows.truncated & starts, rows.next_values, following)

    def _value(self, stem: Stem, step: StepInput, cell: Any) -> Tensor:
        return self._network.act(stem.look(step), cell, step.is_first)[0].values

    def begin_anew(self, streams: Bool[Tensor, " B"]) -> None:
        """Forgets what these streams carry, inside their episode, whatever it is; the games go on."""
        self.core = self.core.reset(streams)
        self.games.forget(streams)

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit between two unrolls, or ``None`` where the environment cannot be saved."""
        games = self.games.get_state()
        return None if games is None else {**games, **carried.save(self.core)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where ``get_state`` was called, in a rollout built with the same arguments.

        Raises:
            ConfigError: if what was saved is of another network.
        """
        try:
            self.core = carried.load(self.core, state)
        except (
            ValueError
        ) as error:  # of a part of a user's own that was changed: its parameters may be the same all the same
            raise ConfigError(
                f"the saved state of an actor does not fit this network: {error}; go on with the code it was trained with"
            ) from None
        self.games.set_state(state)

    def close(self) -> None:
        self.games.close()
