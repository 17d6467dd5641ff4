"""Algorithms by name: what becomes of an unroll where it was collected, and how what is shipped becomes weights.

r2ac         actor: rollout -> gradient              wire: gradient      learner: add, update
impala       actor: rollout                          wire: trajectory    learner: replay -> gradient, add, update
r2d2         actor: rollout                          wire: trajectory    learner: keep; draw -> gradient, update, as often as is owed
stream_ac    actor: T steps, an update after each    wire: weights       learner: keep
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic

import torch

from actors.actor import Actor, build_actor
from actors.build import build_seeded_network
from actors.opening import open_actor
from actors.parts import find, rule_part, with_options
from actors.q_actor import QActor, ladder
from actors.stream_agent import StreamOptions
from actors.stream_worker import StreamWorker, build_stream_worker
from actors.trajectory import TrajectoryContribution, expected_bytes
from actors.trajectory_actor import TrajectoryActor, build_trajectory_actor
from actors.worker import ActorIdentity, C, Worker
from conf.knobs import ConfigError
from conf.schema import AlgorithmConfig, TrainConfig
from envs.base import EnvSpec, VectorEnv
from learner.learner import GradientPlan
from learner.plan import LearnerPlan
from learner.q_learner import QPlan
from learner.q_options import QOptions
from learner.stream_learner import StreamPlan
from learner.trajectory_learner import TrajectoryPlan
from rtrl_core import GradientContribution, ParameterLayout, WeightsContribution
from rtrl_core.cores import FEEDFORWARD

MANY_ACTORS = 64
"""From so many on gradients are added up on the actors' nodes, where that is left open (docs/results: *Many actors*)."""
LARGEST_OPTION = 1e6
MOST_PASSES = 1000
SHIPMENTS = ("trajectories", "trajectories_s0")


class Algorithm(ABC, Generic[C]):
    """The two ends of the wire, and ``C`` is what crosses it. Its options are the fields of its dataclass.

    It is sent to the actors' processes: it holds its options and nothing else.
    """

    name: ClassVar[str]
    refreshes_what_is_replayed: ClassVar[bool] = False
    """Whether ``rule.refresh`` is about states of a replay, not about those of actors."""
    updates_in_batches: ClassVar[bool] = True
    """Of what arrives, while it is new. Otherwise ``learner.batch_segments`` and the options of lag are no matter."""

    follows: ClassVar[bool] = False
    """Whether actors may come and go while it trains (``fleet.num_actors=auto``); its learner is ``Resizable`` then."""

    knows_its_own: ClassVar[bool] = False
    """Whether an actor, in a small fleet, goes on with weights that know what it has just sent. That is one version less of lag, and the
    actor waits until the learner has added it: little where gradients arrive, much where the learner makes them."""

    adds_up: ClassVar[bool] = False
    """Whether its contributions may be added up before they reach the learner (``fleet.aggregate``); its plan is an ``AddingPlan`` then."""

    def require(self, config: TrainConfig) -> None:
        """Asked before anything is built or written.

        Raises:
            ConfigError: in one sentence, for options that this algorithm cannot do anything with.
        """

    @abstractmethod
    def worker(self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None) -> Worker[C]:
        """What an actor's process runs, new or from what its ``get_state`` returned.

        Raises:
            UnknownEnvironment, MissingDependency, ValueError: for a configuration that cannot work.
            EnvironmentFailure: if the environment does not start.
        """

    @abstractmethod
    def plan(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> LearnerPlan[C]:
        """How its learner is made, for a configuration whose sizes are all known, an environment and the network for it."""

    def contribution_bytes(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> int:
        """About how large a contribution is: what Ray's object store is sized by. Here one number per parameter."""
        del config, spec
        return layout.size * torch.float32.itemsize


@dataclass(frozen=True, slots=True)
class R2AC(Algorithm[GradientContribution]):
    """Actor-critic whose actors ship exact gradients (Irie et al. 2024)."""

    name: ClassVar[str] = "r2ac"
    follows: ClassVar[bool] = True
    knows_its_own: ClassVar[bool] = True
    adds_up: ClassVar[bool] = True

    passes: int = 1
    """Gradients that an actor makes of each unroll, one after the other, each under the newest weights; the paper's is one. From the
    second on V-trace weighs what older weights did, and ``loss.clip_ratio`` keeps what has moved far from moving further."""

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= MOST_PASSES:
            raise ValueError(f"passes must be from 1 to {MOST_PASSES}, got {self.passes}")

    def require(self, config: TrainConfig) -> None:
        _require_no_moments(config, self.name)
        _require_graphs(config)
        _require_policy(config, self.name)
        if (config.actors.cuda_graphs, config.actors.activations) == ("always", "retain"):
            raise ConfigError(
                "actors.cuda_graphs=always: passes that are recorded keep no activations, but actors.activations=retain: use "
                "actors.activations=auto, or actors.cuda_graphs=never"
            )
        if self.passes > 1 and config.rule.refresh:
            raise ConfigError(
                f"rule.refresh={config.rule.refresh} computes the sensitivity anew whenever new weights come, and "
                f"algorithm.options.passes={self.passes} needs that of an unroll's start until its last pass: leave rule.refresh=0, or "
                "passes=1"
            )

    def worker(self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None) -> Actor:
        return build_actor(config, identity, state, passes=self.passes)

    def plan(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> GradientPlan:
        del spec
        return GradientPlan(config.learner, layout, _batch(config), config.total_steps)


@dataclass(frozen=True, slots=True)
class IMPALA(Algorithm[TrajectoryContribution]):
    """Actor-critic whose learner computes the gradients, off-policy by V-trace (Espeholt et al. 2018)."""

    name: ClassVar[str] = "impala"
    follows: ClassVar[bool] = True

    ship: str = "trajectories"
    """``trajectories`` or ``trajectories_s0``, with the sensitivity that each began with, which an exact rule at the learner needs (the
    paper's own code)."""

    def __post_init__(self) -> None:
        if self.ship not in SHIPMENTS:
            raise ValueError(f"ship must be {' or '.join(SHIPMENTS)}, got {self.ship}; algorithm=r2ac ships gradients")

    def require(self, config: TrainConfig) -> None:
        _require_no_moments(config, self.name)
        _require_graphs(config)
        _require_policy(config, self.name)
        if config.actors.wire != "float32":
            raise ConfigError(
                f"actors.wire={config.actors.wire} rounds gradients, and algorithm=impala ships none: use actors.wire=float32"
            )
        carries = config.network.core != FEEDFORWARD and rule_part(config.rule).carries_sensitivity
        if carries and self.ship == "trajectories":
            raise ConfigError(
                f"rule {config.rule.name} needs at the learner the sensitivity that each unroll began with: use "
                "algorithm.options.ship=trajectories_s0, or rule=tbptt"
            )
        if not carries and self.ship == "trajectories_s0":
            what = f"network.core={FEEDFORWARD}" if config.network.core == FEEDFORWARD else f"rule {config.rule.name}"
            raise ConfigError(
                f"algorithm.options.ship=trajectories_s0: {what} carries no sensitivity; use trajectories"
            )

    def worker(self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None) -> TrajectoryActor:
        return build_trajectory_actor(config, identity, state)

    def plan(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> TrajectoryPlan:
        return TrajectoryPlan(config, spec, layout, _batch(config))

    def contribution_bytes(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> int:
        del layout
        core = build_seeded_network(config.network, config.rule, spec, config.seed).core
        return expected_bytes(spec, config.actors, core.initial_state(1))


def _batch(config: TrainConfig) -> int | None:
    """Segments of an update. In ``sync`` and ``lockstep`` a batch is a round of the whole fleet, and the schedule ends it."""
    batch = config.learner.batch_segments
    assert batch is not None, "r2ac.training.sizing says how many"
    return batch if config.learner.mode == "async" else None


def _require_graphs(config: TrainConfig) -> None:
    actors = config.actors
    if actors.cuda_graphs != "always":
        return
    if not actors.device.startswith("cuda"):
        raise ConfigError(
            f"actors.cuda_graphs=always needs a CUDA device, got actors.device={actors.device}: name one, or use actors.cuda_graphs=auto"
        )


def _require_no_moments(config: TrainConfig, name: str) -> None:
    for option in ("normalise_observations", "scale_rewards"):
        if getattr(config.network, option):
            raise ConfigError(
                f"network.{option}=true needs algorithm=stream_ac: the actors of {name} do not keep running moments"
            )


def _require_policy(config: TrainConfig, name: str) -> None:
    if config.network.heads != "policy":
        raise ConfigError(
            f"network.heads={config.network.heads} needs algorithm=r2d2: {name} learns a policy; use network.heads=policy"
        )


@dataclass(frozen=True, slots=True)
class R2D2(QOptions, Algorithm[TrajectoryContribution]):
    """Q-learning from a replay of sequences. ``loss.discount`` is its own too; of the learner's options it has no batch and no lag."""

    name: ClassVar[str] = "r2d2"
    refreshes_what_is_replayed: ClassVar[bool] = True
    updates_in_batches: ClassVar[bool] = False

    def require(self, config: TrainConfig) -> None:
        _require_no_moments(config, self.name)
        _require_graphs(config)
        if config.network.heads != "dueling":
            raise ConfigError(
                f"algorithm=r2d2 values actions: add network.heads=dueling, got network.heads={config.network.heads}"
            )
        if config.actors.wire != "float32":
            raise ConfigError(
                f"actors.wire={config.actors.wire} rounds gradients, and algorithm=r2d2 ships none: use actors.wire=float32"
            )
        if config.network.core != FEEDFORWARD and rule_part(config.rule).carries_sensitivity:
            raise ConfigError(
                f"rule {config.rule.name} carries credit from unroll to unroll, but a replayed sequence begins with a state alone: use "
                "rule=tbptt; with algorithm.options.burn_in_gradient=true it has all credit from the start of the burn-in on"
            )
        unroll = config.actors.unroll
        for option, steps in (("algorithm.options.burn_in", self.burn_in), ("algorithm.options.length", self.length)):
            if steps % unroll:
                raise ConfigError(
                    f"{option}={steps} is no multiple of actors.unroll={unroll}, of which sequences are made"
                )
        if config.rule.refresh % unroll:
            raise ConfigError(
                f"rule.refresh={config.rule.refresh} is no multiple of actors.unroll={unroll}, of which sequences are made"
            )
        if config.rule.refresh and config.network.core == FEEDFORWARD:
            raise ConfigError(f"rule.refresh={config.rule.refresh}: network.core={FEEDFORWARD} has no state to refresh")

    def worker(self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None) -> QActor:
        num_actors, num_envs = config.fleet.num_actors, config.actors.streams
        assert num_actors is not None
        epsilons = ladder(
            self.epsilon_base, self.epsilon_exponent, identity.actor_id * num_envs, num_envs, num_actors * num_envs
        )

        def build(envs: list[VectorEnv]) -> QActor:
            return QActor(
                identity,
                envs,
                config.network,
                replace(config.rule, refresh=0),
                config.loss,
                config.actors,
                config.env.reward_clip,
                epsilons=epsilons,
                steps=self.n_step,
                with_inputs=bool(config.rule.refresh),
            )

        return open_actor(config, identity, state, build)

    def plan(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> QPlan:
        num_actors, size = config.fleet.num_actors, self.contribution_bytes(config, spec, layout)
        assert num_actors is not None
        least = (num_actors * (self.burn_in + self.length) // config.actors.unroll + 1) * size
        if self.replay_bytes < least:
            raise ConfigError(
                f"algorithm.options.replay_bytes={self.replay_bytes} has no room for one sequence of each of {num_actors} actors, so "
                f"nothing would be learned: set it to {least} or more"
            )
        return QPlan(config, self, spec, layout)

    def contribution_bytes(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> int:
        del layout
        network = build_seeded_network(config.network, config.rule, spec, config.seed)
        of_inputs = 2 * network.input_size * config.actors.streams * config.actors.unroll if config.rule.refresh else 0
        return expected_bytes(spec, config.actors, network.initial_state(1)) + of_inputs


@dataclass(frozen=True, slots=True)
class StreamAC(Algorithm[WeightsContribution]):
    """AC(lambda) with an update at every step: one actor, no batches, no replay (Elsayed, Vasan & Mahmood 2024).

    ``loss.discount`` and ``loss.entropy_cost`` are its own too; of the learner's options it has none but ``mode``.
    """

    name: ClassVar[str] = "stream_ac"
    updates_in_batches: ClassVar[bool] = False

    trace_decay: float = 0.8
    """lambda of both traces."""
    learning_rate: float = 1.0
    """alpha: the step where its bound is larger."""
    kappa_actor: float = 3.0
    kappa_critic: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.trace_decay <= 1:
            raise ValueError(f"trace_decay must be from 0 to 1, got {self.trace_decay}")
        for option in ("learning_rate", "kappa_actor", "kappa_critic"):
            if not 0 < getattr(self, option) <= LARGEST_OPTION:
                raise ValueError(
                    f"{option} must be above 0 and at most {LARGEST_OPTION:g}, got {getattr(self, option)}"
                )

    def require(self, config: TrainConfig) -> None:
        _require_policy(config, self.name)
        fleet, learner, actors = config.fleet, config.learner, config.actors
        if fleet.num_actors != 1 or learner.mode != "sync":
            raise ConfigError(
                f"algorithm=stream_ac updates its weights at every step, so it has one actor and no lag, got "
                f"fleet.num_actors={'null' if fleet.num_actors is None else fleet.num_actors} learner.mode={learner.mode}: "
                "add fleet.num_actors=1 learner.mode=sync; actors.num_envs may be any"
            )
        if actors.pipeline != 1:
            raise ConfigError(
                f"actors.pipeline={actors.pipeline} acts in some streams while others play, but algorithm=stream_ac learns from "
                "all of them between two steps: use actors.pipeline=1"
            )
        if actors.cuda_graphs == "always":
            raise ConfigError(
                "actors.cuda_graphs=always: algorithm=stream_ac, whose weights change at every step, does not record what it computes: "
                "use actors.cuda_graphs=auto"
            )
        if actors.wire != "float32" or actors.autocast == "bfloat16":
            raise ConfigError(
                "algorithm=stream_ac computes and ships in float32: use actors.wire=float32 actors.autocast=float32"
            )

        if config.rule.refresh:
            raise ConfigError(
                f"rule.refresh={config.rule.refresh} needs weights that stand still for an unroll, which those of "
                "algorithm=stream_ac do not: leave rule.refresh=0"
            )

    def worker(self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None) -> StreamWorker:
        options = StreamOptions(
            discount=config.loss.discount,
            entropy_cost=config.loss.entropy_cost,
            trace_decay=self.trace_decay,
            learning_rate=self.learning_rate,
            kappa_actor=self.kappa_actor,
            kappa_critic=self.kappa_critic,
        )
        return build_stream_worker(config, options, identity, state)

    def plan(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> StreamPlan:
        del spec
        return StreamPlan(config.learner, layout)


ALGORITHMS: dict[str, type[Algorithm[Any]]] = {
    algorithm.name: algorithm for algorithm in (R2AC, IMPALA, R2D2, StreamAC)
}


def find_algorithm(config: AlgorithmConfig) -> Algorithm[Any]:
    """By its name, or as a user typed it.

    Raises:
        ConfigError: for an unknown name or option, or a class that is none.
    """
    part = find("algorithm.name", config.name, ALGORITHMS, (Algorithm,))
    return with_options(part, config.options, "algorithm.options", config.name)


def adds_up(config: TrainConfig, num_actors: int) -> bool:
    """What ``fleet.aggregate`` comes to in a fleet of so many actors.

    Raises:
        ConfigError: if it asks for what cannot be.
    """
    fleet = config.fleet
    if fleet.kind == "local":
        why_not = "fleet.kind=local has all actors in one process"
    elif not find_algorithm(config.algorithm).adds_up:
        why_not = f"algorithm={config.algorithm.name} does not ship gradients"
    else:
        why_not = ""
    if fleet.aggregate == "always" and why_not:
        raise ConfigError(
            f"fleet.aggregate=always adds gradients up where actors are, but {why_not}: use fleet.aggregate=auto"
        )
    if fleet.aggregate == "auto":
        return not why_not and fleet.address is not None and num_actors >= MANY_ACTORS
    return fleet.aggregate == "always"
