"""The actor of streaming: it learns at every step, on its own copy of the weights, and ships where these stand after T steps.

    T times     act -> environment -> moments of observations and returns -> learn (one update)      actors/stream_agent.py
    ship        all weights, with the moments among them

Its weights are right for a learner that has the ones it began with: there is one actor, and no lag.
"""

import time
from typing import Any

import torch

from actors.accounts import SensitivityAges
from actors.build import build_seeded_network
from actors.games import Games
from actors.gradients import is_representable
from actors.precision import require_device
from actors.reporting import header_of, statistics_of_streams
from actors.stream_agent import Outcome, StepReport, StreamAgent, StreamOptions
from actors.worker import ActorIdentity
from conf.knobs import ConfigError
from conf.schema import TrainConfig
from envs.base import Timestep, VectorEnv
from envs.registry import make_env
from rtrl_core import (
    FlatParameters,
    UnrollStatistics,
    WeightsContribution,
    WeightsSnapshot,
)
from rtrl_core.shapes import Bool, Float, Int, Tensor

LARGEST = 1e18
"""Norm of a stream's sensitivity or trace beyond which the stream begins anew, as in ``actor.py``."""


class StreamWorker:
    """Turns weights into better ones, T updates at a time.

    Args:
        env: owned by the worker from here on.

    Raises:
        ConfigError: if the network does not fit the environment, or the device is not there.
    """

    def __init__(self, config: TrainConfig, options: StreamOptions, identity: ActorIdentity, env: VectorEnv) -> None:
        self.identity = identity
        device = require_device("actors.device", config.actors.device)
        network = build_seeded_network(config.network, config.rule, env.spec, identity.seed).to(device)
        self.network = network
        self.parameters = FlatParameters(network)
        self.agent = StreamAgent(network, options, env.num_envs)
        self.games = Games(env, reward_clip=config.env.reward_clip, action_seed=identity.action_seed, device=device)
        self._unroll_length = config.actors.unroll
        self.discounted = torch.zeros(env.num_envs, dtype=torch.float64, device=device)
        """Running discounted return of each stream, which rewards are scaled by the spread of."""
        self._has_begun = False
        """Before, not even the first observation is in the moments: these come with the weights."""
        self.policy_version = -1
        self._sequence = 0
        self._ages = SensitivityAges(env.num_envs)
        self._idle_since: float | None = None

    @property
    def layout(self) -> str:
        return self.parameters.layout.fingerprint

    def unroll(self, weights: WeightsSnapshot) -> WeightsContribution:
        """Begins at ``weights``, takes T steps in every stream with an update after each, and returns where that has led.

        Raises:
            ValueError: if the weights are of another network.
            EnvironmentFailure: if the environment died.
        """
        started = time.perf_counter()
        wait_time = 0.0 if self._idle_since is None else started - self._idle_since
        if weights.layout != self.layout:
            raise ValueError(f"weights of network {weights.layout}, but this actor's network is {self.layout}")
        # Also where the version is the same: the learner may have refused what this actor has made of it.
        self.parameters.load(weights.vector)
        self.policy_version = weights.version
        learn_time = 0.0
        self.games.clear()
        if not self._has_begun:
            self._observe()
            self._has_begun = True
        reports: list[StepReport] = []
        starts: list[Tensor] = []
        for _ in range(self._unroll_length):
            starts.append(torch.from_numpy(self.games.now.is_first))
            report, seconds = self._step()
            learn_time += seconds
            reports.append(report)
        unsound, norms = self._reset_unsound()
        ages = self._ages.after(torch.stack(starts), self.policy_version)
        self._idle_since = time.perf_counter()
        times = {
            "env_time_s": self.games.env_time_s,
            "act_time_s": self._idle_since - started - self.games.env_time_s - learn_time,
            "learn_time_s": learn_time,
            "wait_time_s": wait_time,
        }
        whole = StepReport(*(torch.stack(parts).double() for parts in zip(*reports, strict=True)))
        self._sequence += 1
        header = header_of(self.identity, self._sequence - 1, self.policy_version, self.games.played())
        return WeightsContribution(
            header,
            self.layout,
            self.parameters.vector.detach().to("cpu", copy=True),
            float(whole.step_sizes.sum()) / max(1, header.num_steps),
            self._statistics(whole, unsound, norms, ages, times),
        )

    def _step(self) -> tuple[StepReport, float]:
        """One step of all streams and the update that follows. Returns also how long learning took, in seconds."""
        games = self.games
        output = self.agent.act(games.step_input())
        action = self.network.distribution.sample(output.parameters, games.noise)
        now = games.take(action)
        self._observe()
        rewards = self._scaled_rewards(now)
        next_values = self.agent.look(games.step_input())
        if (found := games.cut_off()) is not None:
            cut, final = found
            next_values[cut] = self.agent.look(final, cut.nonzero().flatten().tolist())
        before = time.perf_counter()
        flags = (games.tensor(flag) for flag in (now.terminated, now.truncated, now.valid))
        report = self.agent.learn(Outcome(action, rewards, next_values, *flags))
        return report, time.perf_counter() - before

    def _observe(self) -> None:
        """Takes the present observation into the moments, before it is looked at for the first time."""
        if (moments := self.network.observation_moments) is not None:
            moments.update(self.games.tensor(self.games.now.observation).flatten(1))

    def _scaled_rewards(self, now: Timestep) -> Float[Tensor, " B"]:
        """``r / std(u)``, with ``u = gamma (1 - over) u + r`` as in the published code, where the last reward of an episode begins the
        sum anew. Steps that are no transitions change nothing."""
        moments, rewards = self.network.return_moments, self.games.last_reward
        if moments is None:
            return rewards
        valid = self.games.tensor(now.valid)
        over = self.games.tensor(now.terminated | now.truncated)
        advanced = self.agent.options.discount * self.discounted.masked_fill(over, 0) + rewards
        self.discounted = torch.where(valid, advanced, self.discounted)
        moments.update(self.discounted[valid].unsqueeze(1))
        return moments.scaled(rewards)

    def _reset_unsound(self) -> tuple[Bool[Tensor, " B"], Float[Tensor, " B"]]:
        """Begins anew the streams that nothing can be learnt from any more; all of them if their weights are no good: the learner
        refuses those, and the next unroll begins with its own. Returns which they are, and the norms of the sensitivities before."""
        unsound, norms = self.agent.unsound(LARGEST), self.agent.sensitivity_norms()
        if not is_representable(self.parameters.vector):
            unsound = torch.ones_like(unsound)
            self.discounted = torch.zeros_like(self.discounted)
        if unsound.any():
            on_device = unsound.to(self.discounted.device)
            self.agent.begin_anew(on_device)
            self.games.forget(on_device)
            self._ages.begin(unsound, self.policy_version)
        return unsound, norms

    def _statistics(
        self,
        whole: StepReport,
        unsound: Bool[Tensor, " B"],
        norms: Float[Tensor, " B"],
        ages: Int[Tensor, " B"],
        times: dict[str, float],
    ) -> UnrollStatistics:
        of_streams = statistics_of_streams(
            self.games.played(),
            carries_sensitivity=self.network.core.carries_sensitivity,
            begun_anew=unsound,
            norms=norms,
            ages=ages,
        )
        squares = float(whole.deltas.square().sum())
        return UnrollStatistics(
            policy_loss=-float((whole.log_policy * whole.deltas).sum()),
            value_loss=squares / 2,
            entropy=float(whole.entropies.sum()),
            target_sum=float(whole.targets.sum()),
            target_square_sum=float(whole.targets.square().sum()),
            error_square_sum=squares,
            bfloat16=False,
            **{**of_streams, **times},
        )

    def get_state(self) -> dict[str, Any] | None:
        """Everything but the weights that is needed to go on bit for bit, or ``None`` where the environment cannot be saved."""
        games = self.games.get_state()
        if games is None:
            return None
        return {
            **games,
            "agent": self.agent.get_state(),
            "discounted": self.discounted,
            "has_begun": self._has_begun,
            "born": self._ages.born,
            "sequence": self._sequence,
            "incarnation": self.identity.incarnation,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where ``get_state`` was called, in a worker built with the same arguments.

        Raises:
            ConfigError: if what was saved is of another network.
        """
        try:
            self.agent.set_state(state["agent"])
        except ValueError as error:
            raise ConfigError(
                f"the saved state of an actor does not fit this network: {error}; go on with the code it was trained with"
            ) from None
        self.games.set_state(state)
        self.discounted = state["discounted"].to(self.discounted.device)
        self._has_begun = state["has_begun"]
        self._ages.born = state["born"]
        self._sequence = state["sequence"]
        self.identity = self.identity._replace(incarnation=state["incarnation"])

    def close(self) -> None:
        self.games.close()


def build_stream_worker(
    config: TrainConfig, options: StreamOptions, identity: ActorIdentity, state: dict[str, Any] | None = None
) -> StreamWorker:
    """Raises ``UnknownEnvironment``, ``MissingDependency`` or ``ValueError`` for a configuration that cannot work,
    ``EnvironmentFailure`` if the environment does not start."""
    env = make_env(config.env, config.actors.streams, identity.env_seed)
    try:
        built = StreamWorker(config, options, identity, env)
        if state is not None:
            built.set_state(state)
    except Exception:
        env.close()
        raise
    return built
