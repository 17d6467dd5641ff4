"""Collecting: B streams take T steps under a policy and leave an unroll. What becomes of it is the algorithm's business.

observation -> stem -> core input x_t -> cell c_t -> policy, value -> action -> environment        T times

Streams of several environments are stepped in groups: while the games of one play, the network looks at those of the next.

    network        A0      B0      A1      B1      A2
    games of A        [ .. A0 .. ]    [ .. A1 .. ]
    games of B                [ .. B0 .. ]    [ .. B1 ..
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from actors.accounts import Played
from actors.acting import Acting
from actors.change import PolicyChange
from actors.games import Games
from actors.precision import torch_threads
from actors.stem import StepInput
from actors.unroll import Unroll
from conf.knobs import ConfigError
from envs.base import EnvSpec, Timestep, VectorEnv
from rtrl_core import CoreState, PolicyNetwork, PolicyOutput, carried
from rtrl_core.shapes import Bool, Float, Shaped, Tensor
from rtrl_core.untyped import numbers


class Group(NamedTuple):
    """Streams that are stepped together, S of the actor's B."""

    number: int
    games: Games
    change: PolicyChange
    streams: slice
    """Which they are."""


class Taken(NamedTuple):
    """One step of a group. What it brought is in the group's games until its next one is taken."""

    t: int
    group: Group
    seen: StepInput
    inputs: Float[Tensor, "S D"]
    """Of the core."""
    output: PolicyOutput
    action: Shaped[Tensor, "S ..."]
    cell: Any
    """Of the core, after the step."""

    @property
    def now(self) -> Timestep:
        return self.group.games.now


class Rollout:
    """The streams of one actor, and what goes on from unroll to unroll in each of them.

    Args:
        envs: of the groups; owned by the rollout from here on.
        unroll_length: T.
        reward_clip: what loss and core see of a reward, see ``clip_rewards``.
        action_seeds: of the actions that are drawn, one for each environment.
    """

    def __init__(
        self,
        envs: Sequence[VectorEnv],
        network: PolicyNetwork,
        *,
        unroll_length: int,
        reward_clip: str,
        action_seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        self.spec: EnvSpec = envs[0].spec
        self.num_envs = sum(env.num_envs for env in envs)
        """B."""
        self._network = network
        self._unroll_length = unroll_length
        self.groups: list[Group] = []
        for env, seed in zip(envs, action_seeds, strict=True):
            first = self.groups[-1].streams.stop if self.groups else 0
            games = Games(env, reward_clip=reward_clip, action_seed=seed, device=device)
            streams = slice(first, first + env.num_envs)
            self.groups.append(Group(len(self.groups), games, PolicyChange(), streams))
        self.core: CoreState = network.initial_state(self.num_envs)
        """What the core carries. Acting advances its cell alone: whoever differentiates an unroll puts the whole of it back."""
        actions = torch.cat([group.games.last_action for group in self.groups])
        self.unroll = Unroll.empty(unroll_length, network.input_size, actions, self.core)
        """The last one; the next overwrites its rows."""

    @property
    def streams(self) -> list[slice]:
        """Of each group."""
        return [group.streams for group in self.groups]

    @property
    def env_time_s(self) -> float:
        """Spent waiting for environments during the last unroll."""
        return sum(group.games.env_time_s for group in self.groups)

    def played(self) -> Played:
        """During the last unroll."""
        return Played.together([group.games.played() for group in self.groups])

    def policy_change(self) -> tuple[float, int]:
        """Sum of ``PolicyChange.divergences`` at the last unroll's first step, and of how many streams it is."""
        parts = [group.change.divergences for group in self.groups]
        known = [part for part in parts if part is not None]
        if not known:
            return 0.0, 0
        of_all = torch.cat(known)
        total, streams = numbers(torch.stack([of_all.nansum(), (~of_all.isnan()).sum().to(of_all.dtype)]))
        return total, round(streams)

    def example(self) -> tuple[StepInput, Any]:
        """What the network sees next, of the largest group, and what its core has carried there."""
        of = self.groups[0].streams
        return self.groups[0].games.step_input(), carried.map_leaves(lambda leaf: leaf[of], self.core.cell)

    def steps(self, acting: Acting) -> Iterator[Taken]:
        """Takes T steps in every stream, with the network's present weights, one of one group each time that it is asked for the next.

        Raises:
            EnvironmentFailure: if an environment died.
        """
        distribution, under_way = self._network.distribution, deque[Taken]()
        cells = [carried.map_leaves(lambda leaf, of=streams: leaf[of], self.core.cell) for streams in self.streams]
        for group in self.groups:
            group.games.clear()
        with self._threads():
            for t in range(self._unroll_length):
                for number, games, _, streams in self.groups:
                    step = games.step_input()
                    inputs, output, cells[number] = acting.act(step, cells[number])
                    action = distribution.of(streams).sample(output.parameters, games.noise)
                    games.begin(action)
                    under_way.append(Taken(t, self.groups[number], step, inputs, output, action, cells[number]))
                    if len(under_way) == len(self.groups):
                        yield _finished(under_way)
            while under_way:
                yield _finished(under_way)
        self.core = self.core._replace(cell=cells[0] if len(cells) == 1 else carried.joined(cells))

    def _threads(self) -> AbstractContextManager[None]:
        """Beside games that play it acts with one thread: theirs have the other cores."""
        return torch_threads(1) if len(self.groups) > 1 else nullcontext()

    def collect(self, acting: Acting, look: Callable[[Taken], None] | None = None) -> Unroll:
        """All of the steps, with the values of what followed them. The rows are overwritten by the next call.

        Args:
            look: is shown each step.

        Raises:
            EnvironmentFailure: if an environment died.
        """
        rows, distribution = self.unroll, self._network.distribution
        rows.before = self.core
        for taken in self.steps(acting):
            games, now, at = taken.group.games, taken.group.games.seen(), (taken.t, taken.group.streams)
            rows.inputs[at] = taken.inputs
            rows.is_first[at] = taken.seen.is_first
            rows.values[at] = taken.output.values
            rows.actions[at] = taken.action
            rows.rewards[at] = games.last_reward
            rows.terminated[at] = now.terminated
            rows.truncated[at] = now.truncated
            rows.valid[at] = now.valid
            self._bootstrap_truncated(taken, acting)
            if taken.t == 0:
                mine = distribution.of(taken.group.streams)
                taken.group.change.compare(mine, taken.output.parameters, taken.action)
            if look is not None:
                look(taken)
        for group in self.groups:
            self._bootstrap_inside(group, acting)
        return rows

    @torch.no_grad()
    def _bootstrap_truncated(self, taken: Taken, acting: Acting) -> None:
        """The value of the final observation, in the streams whose episode was cut off and already shows the next one's first."""
        found = taken.group.games.cut_off()
        if found is None:
            return
        rows, step = found
        value = acting.look(step.of(rows), carried.select(taken.cell, rows)).values
        self.unroll.next_values[taken.t, taken.group.streams][rows] = value

    @torch.no_grad()
    def _bootstrap_inside(self, group: Group, acting: Acting) -> None:
        """``V(o_{t+1})`` everywhere else; beyond the last row it takes one more look, which the next unroll repeats and keeps."""
        rows, of, step = self.unroll, group.streams, group.games.step_input()
        cell = carried.map_leaves(lambda leaf: leaf[of], self.core.cell)
        beyond = acting.look(step, cell)
        group.change.note(beyond.parameters)
        following = torch.cat([rows.values[1:, of], beyond.values.unsqueeze(0)])
        starts = torch.cat([rows.is_first[1:, of], step.is_first.unsqueeze(0)])
        cut = rows.truncated[:, of] & starts
        rows.next_values[:, of] = torch.where(cut, rows.next_values[:, of], following)

    def begin_anew(self, streams: Bool[Tensor, " B"]) -> None:
        """Forgets what these streams carry, inside their episode, whatever it is; the games go on."""
        self.core = self.core.reset(streams)
        for group in self.groups:
            group.games.forget(streams[group.streams])
            group.change.forget(streams[group.streams])

    def get_state(self) -> dict[str, Any] | None:
        """Everything needed to go on bit for bit between two unrolls, or ``None`` where an environment cannot be saved."""
        found = [group.games.get_state() for group in self.groups]
        states = [state for state in found if state is not None]
        if len(states) < len(found):
            return None
        games = states[0] if len(states) == 1 else {"groups": {str(n): state for n, state in enumerate(states)}}
        looked = {str(group.number): group.change.get_state() for group in self.groups}
        return {**games, **carried.save(self.core), "looked": looked}

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
        for group in self.groups:  # checkpoints of earlier versions do not have it
            group.change.set_state(state.get("looked", {}).get(str(group.number), {}), self.unroll.values.device)
        if len(self.groups) == 1:
            self.groups[0].games.set_state(state)
            return
        for group in self.groups:
            group.games.set_state(state["groups"][str(group.number)])

    def close(self) -> None:
        for group in self.groups:
            group.games.close()


def _finished(under_way: deque[Taken]) -> Taken:
    """The oldest step that was begun, once it has been taken."""
    taken = under_way.popleft()
    taken.group.games.finish()
    return taken
