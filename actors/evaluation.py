"""Plays whole games with fixed weights and reports their raw returns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from actors.stem import StemPass, StepInput
from conf.knobs import ConfigError
from envs.base import Timestep, VectorEnv
from rtrl_core import CoreState, PolicyNetwork, PolicyOutput, clip_rewards
from rtrl_core.shapes import Shaped, Tensor


class Move(NamedTuple):
    """One step of all streams, as a spectator sees it."""

    timestep: Timestep
    """What the policy saw."""
    action: Shaped[Tensor, "B ..."]
    output: PolicyOutput
    sensitivity_norm: float | None
    """Root mean square over streams; only if it was asked for and the learning rule carries one."""
    next_timestep: Timestep


@torch.no_grad()
def play(
    network: PolicyNetwork, env: VectorEnv, *, greedy: bool, reward_clip: str, seed: int, with_sensitivity: bool = False
) -> Iterator[Move]:
    """Plays for ever. Float32 arithmetic; ``with_sensitivity`` also carries the RTRL sensitivity, as an actor would."""
    device = next(network.parameters()).device
    noise = torch.Generator(device).manual_seed(seed)
    forward = StemPass(network, autocast=None)
    timestep = env.reset()
    state: CoreState = network.initial_state(env.num_envs)
    reward = torch.zeros(env.num_envs, device=device)
    action = torch.from_numpy(env.spec.actions.zeros(env.num_envs)).to(device)
    while True:
        step = StepInput(
            torch.from_numpy(timestep.observation).to(device),
            reward,
            action,
            torch.from_numpy(timestep.is_first).to(device),
            None if timestep.instruction is None else torch.from_numpy(timestep.instruction).to(device),
        )
        inputs = forward(step)
        output, cell = network.act(inputs, state.cell, step.is_first)
        if with_sensitivity:
            _, state = network.unroll(inputs.unsqueeze(0), state, step.is_first.unsqueeze(0))
        state = state._replace(cell=cell)
        action = (
            network.distribution.mode(output.parameters)
            if greedy
            else network.distribution.sample(output.parameters, noise)
        )
        following = env.step(action.cpu().numpy())
        yield Move(timestep, action, output, _norm(network, state) if with_sensitivity else None, following)
        timestep = following
        reward = clip_rewards(torch.from_numpy(following.reward).to(device), reward_clip)


def _norm(network: PolicyNetwork, state: CoreState) -> float | None:
    norms = network.core.stream_norms(state.sensitivity)
    return None if norms is None else float(norms.square().mean().sqrt())


@dataclass(frozen=True, slots=True)
class Score:
    """Raw returns of finished games."""

    returns: list[float]
    lengths: list[int]
    levels: list[int]
    """Index into ``EnvSpec.levels``; empty for a single task."""

    @classmethod
    def of_runs(cls, runs: "Sequence[Score]") -> "Score":
        """All games of several runs."""
        return cls(
            [value for run in runs for value in run.returns],
            [value for run in runs for value in run.lengths],
            [value for run in runs for value in run.levels],
        )

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        return float(np.std(self.returns))


def evaluate(
    network: PolicyNetwork,
    env: VectorEnv,
    *,
    episodes: int,
    greedy: bool,
    reward_clip: str,
    seed: int,
    max_steps: int = 10**6,
) -> Score:
    """The returns of at least ``episodes`` games.

    Every stream plays the same number of games: taking the first ones to finish would favour short games, which are rarely the
    good ones. A lost life is not the end of a game.

    Raises:
        ConfigError: if a game does not end within ``max_steps`` steps.
    """
    quota = -(-episodes // env.num_envs)
    finished: list[list[tuple[float, int, int]]] = [[] for _ in range(env.num_envs)]
    total, length = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    for move in play(network, env, greedy=greedy, reward_clip=reward_clip, seed=seed):
        now = move.next_timestep
        total += np.where(now.valid, now.reward, 0)
        length += now.valid
        for stream in np.flatnonzero(now.game_over):
            level = -1 if now.level is None else int(now.level[stream])
            if len(finished[stream]) < quota:
                finished[stream].append((float(total[stream]), int(length[stream]), level))
        begun_anew = now.game_over | now.game_lost
        total[begun_anew], length[begun_anew] = 0.0, 0
        waiting = np.array([len(games) < quota for games in finished])
        if not waiting.any():
            break
        if length[waiting].max() >= max_steps:
            raise ConfigError(
                f"a game of {env.spec.name} did not end within {max_steps:,} steps: raise max_steps, or train in an "
                "environment with a time limit"
            )
    games = [game for stream in finished for game in stream]
    return Score([g[0] for g in games], [g[1] for g in games], [g[2] for g in games if g[2] >= 0])
