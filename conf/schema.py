"""Every knob of the system, once: its name, type, default and one line of documentation. Environments are in ``env_schema.py``.

YAML files under ``conf/`` hold only differences from these defaults. Values are checked when the configuration is built; each
object of the program then receives its own section and never sees the rest.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.env_schema import AtariConfig, EnvConfig
from conf.knobs import BELOW_ONE, MAX_BYTES, MAX_S, MAX_SEED, MAX_STEPS, knob
from conf.places import holds_text, imports_module


@dataclass
class NetworkConfig:
    """Encoder -> recurrent core -> heads."""

    encoder: str = knob(
        "impala",
        "what turns an observation into features; none feeds vectors to the core as they are; MODULE:CLASS is one of your own",
        place=imports_module,
    )
    encoder_options: dict[str, Any] = knob(
        {}, "the encoder's own, as network.encoder_options.channels=[32,64,64]", place=holds_text
    )
    encoder_init: str = knob(
        "torch",
        "the paper's; orthogonal, whose features differ more between frames; or sparse, as in streaming, of the heads too",
        choices=("torch", "orthogonal", "sparse"),
    )
    features: int = knob(256, "encoder outputs", minimum=1, maximum=65_536)
    mlp_sizes: list[int] = knob(
        [64],
        "mlp encoder: encoder_options.hidden, sizes of its hidden layers",
        minimum=1,
        maximum=65_536,
        length=(0, 64),
    )
    core: str = knob(
        "elstm",
        "cell of the recurrent core; feedforward has none; MODULE:CLASS is one of your own",
        place=imports_module,
    )
    core_options: dict[str, Any] = knob({}, "the cell's own, as network.core_options.keep_bias=2", place=holds_text)
    num_units: int = knob(256, "N, units of the core, or of each of its layers", minimum=1, maximum=65_536)
    layers: int = knob(1, "recurrent layers on top of each other; the heads read all of them", minimum=1, maximum=64)
    forget_bias: float = knob(
        0.0,
        "elstm, lstm, minlstm, slstm: core_options.forget_bias, added to the forget gate's bias at the start; above 0 they begin by "
        "remembering",
        minimum=-100,
        maximum=100,
    )
    last_reward: bool = knob(True, "feed the last (clipped) reward to the core")
    last_action: bool = knob(False, "feed the last action, one-hot, to the core")
    heads: str = knob(
        "policy",
        "policy: a distribution over actions, and a value; dueling: values of actions, for algorithm=r2d2",
        choices=("policy", "dueling"),
    )
    head_sizes: list[int] = knob([], "hidden layers of each head", minimum=1, maximum=65_536, length=(0, 64))
    critic: str = knob(
        "shared",
        "policy and value read one core, or each has an encoder and a core of its own",
        choices=("shared", "separate"),
    )
    normalise_outputs: bool = knob(False, "layer norm of the core's outputs before the heads, without parameters")
    normalise_observations: bool = knob(
        False, "vectors by their running mean and deviation, kept beside the weights (algorithm=stream_ac)"
    )
    scale_rewards: bool = knob(
        False, "rewards by the deviation of running returns, kept beside the weights (algorithm=stream_ac)"
    )
    standardise_steps: int = knob(
        0,
        "steps of random play before training, by whose mean and deviation each pixel is standardised, for convolutions; 0: not",
        minimum=0,
        maximum=1_000_000,
    )
    freeze_encoder: bool = knob(False, "leave the encoder's weights as they were loaded")
    load_encoder: str | None = knob(
        None, "checkpoint, or run folder for its last one, whose encoder is loaded before training", place=True
    )


@dataclass
class RuleConfig:
    """How gradients reach the core's parameters."""

    name: str = knob("segment", "learning rule; MODULE:CLASS is one of your own", place=imports_module)
    options: dict[str, Any] = knob({}, "the rule's own, as rule.options.NAME=VALUE", place=holds_text)
    across_layers: str = knob(
        "local",
        "local: each layer carries the sensitivity of its own parameters; exact: of two layers with up to 128 units also that of the "
        "upper one's state by the lower one's parameters",
        choices=("local", "exact"),
    )
    refresh: int = knob(
        0,
        "W: compute the sensitivity anew from where it was W steps ago, under the present weights (docs/tuning.md); 0 never does",
        minimum=0,
        maximum=1_000_000,
    )
    refresh_every: int = knob(4, "unrolls between two refreshes", minimum=1, maximum=1_000_000)


@dataclass
class AlgorithmConfig:
    """What becomes of an unroll, and how it becomes weights."""

    name: str = knob(
        "r2ac",
        "r2ac: each actor ships its own gradient; impala: each ships what it saw and did, and the learner differentiates; r2d2: the "
        "learner keeps that, and learns values from it again and again; stream_ac: one actor updates at every step; MODULE:CLASS is one of "
        "your own",
        place=imports_module,
    )
    options: dict[str, Any] = knob({}, "the algorithm's own, as algorithm.options.NAME=VALUE", place=holds_text)


@dataclass
class LossConfig:
    """What an actor differentiates."""

    discount: float = knob(0.99, "gamma", minimum=0, maximum=1)
    entropy_cost: float = knob(0.01, "weight of the entropy bonus", minimum=0, maximum=1e6)
    baseline_cost: float = knob(0.5, "weight of the value loss, on top of its own 1/2", minimum=0, maximum=1e6)
    trace_decay: float = knob(
        1.0, "lambda of the returns: 1 looks ahead to the end of the unroll, 0 one step", minimum=0, maximum=1
    )
    clip_ratio: float | None = knob(
        None,
        "PPO's epsilon: an action whose probability has changed by more than this share since it was taken gets no gradient that changes "
        "it further (algorithm=r2ac, impala); null bounds nothing",
        minimum=0,
        maximum=1e6,
    )


@dataclass
class ActorsConfig:
    """One actor: B streams, one network, unrolls of T steps."""

    num_envs: int | None = knob(
        32,
        "B, streams per actor; the most of them where fleet.num_streams is given; null is fleet.shared_streams over the number of "
        "actors, at most a quarter of them",
        minimum=1,
        maximum=65_536,
    )
    unroll: int = knob(20, "T, steps per unroll", minimum=1, maximum=1_000_000)
    pipeline: int = knob(
        1,
        "parts of an actor's streams: while the games of one play, the network acts in the next (docs/tuning.md); 1 has none",
        minimum=1,
        maximum=64,
    )
    device: str = knob("cpu", "cpu, cuda or cuda:N")
    num_cpus: float = knob(1, "CPU cores that Ray sets aside for an actor", minimum=0, maximum=10_000)
    num_gpus: float = knob(0, "GPU share that Ray sets aside for an actor", minimum=0, maximum=1000)
    threads: int = knob(
        1, "torch threads of an actor; with actors.pipeline those it learns with", minimum=1, maximum=1024
    )
    autocast: str = knob(
        "auto",
        "type of the encoder's arithmetic; auto is bfloat16 where the device is fast at it",
        choices=("auto", "float32", "bfloat16"),
    )
    cuda_graphs: str = knob(
        "auto",
        "on a CUDA device, record what an actor computes and do it again without Python (docs/tuning.md); auto does where the network can "
        "be recorded, always stops where it cannot",
        choices=("auto", "never", "always"),
    )
    activations: str = knob(
        "auto", "keep the encoder's activations from acting, or recompute them", choices=("auto", "retain", "recompute")
    )
    activation_budget_bytes: int = knob(
        2 * 1024**3, "auto keeps activations while they fit in this", minimum=0, maximum=MAX_BYTES
    )
    wire: str = knob(
        "float32",
        "type of a gradient on its way; bfloat16 keeps its rounding error on the actor",
        choices=("float32", "bfloat16"),
    )
    fidelity_every: int = knob(
        200,
        "unrolls between two measurements, in one stream, of what older weights and the learning rule have spoilt of the sensitivity; "
        "0 measures nothing (docs/tuning.md says what it costs)",
        minimum=0,
        maximum=MAX_STEPS,
    )
    fidelity_steps: int = knob(
        500, "longest episode, in steps, that such a measurement follows", minimum=1, maximum=1_000_000
    )

    @property
    def streams(self) -> int:
        """``num_envs`` of a configuration that leaves nothing open (``r2ac.training.sizing.sized``)."""
        assert self.num_envs is not None
        return self.num_envs


@dataclass
class FleetConfig:
    """Where actors run and what happens when one dies."""

    kind: str = knob("ray", "ray: processes on a cluster; local: in this process", choices=("ray", "local"))
    num_actors: int | None = knob(
        None,
        "actors; null is one per core of this machine, or per actors.num_cpus where each takes more; auto is as many of a cluster's, while "
        "it grows and shrinks",
        minimum=1,
        maximum=100_000,
    )
    follow_cluster: bool = knob(
        False,
        "what fleet.num_actors=auto says: one actor per core of each node of the cluster, whenever nodes come and go; needs fleet.address "
        "and learner.mode=async",
    )
    min_actors: int = knob(
        1, "with how many actors a fleet that follows the cluster may begin", minimum=1, maximum=100_000
    )
    num_streams: int | None = knob(
        None,
        "streams of all actors together, spread evenly over them; null is actors.num_envs for each",
        minimum=1,
        maximum=1_000_000,
    )
    shared_streams: int = knob(
        32,
        "streams of all actors together where actors.num_envs is null and there are four or more, a quarter of them each where there are "
        "fewer; at least one each",
        minimum=1,
        maximum=1_000_000,
    )
    aggregate: str = knob(
        "auto",
        "whether the gradients of a node's actors are added up there and cross the network as one: auto is from 64 actors on, on a cluster "
        "(fleet.address)",
        choices=("auto", "always", "never"),
    )
    address: str | None = knob(None, "Ray cluster to join (auto, or host:port); null starts a local one", place=True)
    in_flight: int = knob(1, "unrolls queued per actor in async mode (1 or 2)", minimum=1, maximum=2)
    placement_timeout_s: float = knob(5.0, "how long to wait for nodes that the actors need", minimum=0, maximum=MAX_S)
    start_timeout_s: float = knob(300.0, "how long actors may take to start", minimum=1, maximum=MAX_S)
    unroll_timeout_s: float = knob(600.0, "an actor silent for longer is replaced", minimum=0, maximum=MAX_S)
    learner_timeout_s: float = knob(
        600.0, "a learner that owes an answer and is silent for longer is replaced", minimum=1, maximum=MAX_S
    )
    max_restarts: int = knob(
        100,
        "restarts of actors, and of the learner, within an hour, after which the run gives up",
        minimum=0,
        maximum=1_000_000_000,
    )
    object_store_bytes: int | None = knob(
        None, "object store of a local Ray; null sizes it by the run", minimum=80_000_000, maximum=MAX_BYTES
    )
    dashboard: bool = knob(False, "start Ray's dashboard with a local Ray")
    metrics_port: int | None = knob(
        None, "fixed port of Ray's Prometheus endpoint; null lets Ray choose", minimum=1, maximum=65_535
    )


@dataclass
class LearnerConfig:
    """Contributions -> weights."""

    mode: str = knob(
        "async",
        "sync: every contribution of a version; lockstep: fixed lag of one; async: as they come",
        choices=("sync", "lockstep", "async"),
    )
    batch_segments: int | None = knob(
        None,
        "segments (unrolls of one stream) per update in async mode; null is as many as target_lag asks for, in contributions of num_envs",
        minimum=1,
        maximum=10_000_000,
    )
    target_lag: float = knob(
        8.0,
        "versions that a contribution is late on average, at most, where batch_segments is null: less takes larger, fewer updates",
        minimum=0.01,
        maximum=1e6,
    )
    max_lag: int | None = knob(
        None,
        "versions a contribution may be behind; null is twice what is expected, num_actors * in_flight * num_envs / "
        "batch_segments, and at least 20",
        minimum=0,
        maximum=MAX_STEPS,
    )
    lag_rule: str = knob("drop", "what happens to a later one", choices=("accept", "damp", "drop"))
    optimizer: str = knob(
        "rmsprop",
        "how a gradient changes the weights; rmsprop is torch's, rmsprop_tf TensorFlow's, whose epsilon is inside the root",
        choices=("rmsprop", "rmsprop_tf", "adam"),
    )
    learning_rate: float = knob(
        6e-4, "at the start; falls linearly to final_learning_rate over total_steps", minimum=0, maximum=1
    )
    warmup_updates: int = knob(
        0, "updates over which the learning rate rises from nothing at the start", minimum=0, maximum=MAX_STEPS
    )
    final_learning_rate: float = knob(0.0, "at total_steps", minimum=0, maximum=1)
    rmsprop_decay: float = knob(0.99, "alpha", minimum=0, maximum=BELOW_ONE)
    rmsprop_epsilon: float = knob(0.01, "outside the root; inside it with rmsprop_tf", minimum=1e-12, maximum=1)
    adam_betas: list[float] = knob([0.9, 0.999], "moment decays", minimum=0, maximum=BELOW_ONE, length=(2, 2))
    adam_epsilon: float = knob(1e-8, "outside the root", minimum=1e-12, maximum=1)
    clip_norm: float = knob(40.0, "global norm above which the gradient is scaled down", minimum=0, maximum=1e12)
    device: str = knob("cpu", "cpu, cuda or cuda:N")
    num_cpus: float = knob(0, "CPU cores that Ray sets aside for the learner", minimum=0, maximum=10_000)
    num_gpus: float = knob(0, "GPU share that Ray sets aside for the learner", minimum=0, maximum=1000)
    threads: int = knob(1, "torch threads of the learner", minimum=1, maximum=1024)


@dataclass
class LoggingConfig:
    """What a run leaves behind and shows."""

    interval_s: float = knob(
        10.0, "seconds between log rows; a row waits at most two intervals for a contribution", minimum=0, maximum=MAX_S
    )
    interval_steps: int | None = knob(
        None, "agent steps between log rows instead (repeatable runs)", minimum=1, maximum=MAX_STEPS
    )
    terminal: str = knob(
        "auto",
        "live panel, plain lines, or nothing; auto is a panel on a terminal",
        choices=("auto", "panel", "plain", "none"),
    )
    tensorboard: bool = knob(True, "write TensorBoard events into the run folder")
    prometheus: bool = knob(True, "export through Ray's metrics (fleet.kind=ray)")
    wandb: str = knob("disabled", "Weights & Biases", choices=("disabled", "offline", "online"))
    wandb_project: str = knob("r2ac", "project name", place=True)
    wandb_entity: str | None = knob(None, "user or team; null is the default of the account", place=True)
    wandb_init_timeout_s: float = knob(20.0, "how long online may take to answer", minimum=1, maximum=MAX_S)
    checkpoint_interval_s: float = knob(300.0, "seconds between checkpoints", minimum=0, maximum=MAX_S)
    checkpoint_interval_steps: int | None = knob(
        None, "agent steps between checkpoints instead (repeatable runs)", minimum=1, maximum=MAX_STEPS
    )
    keep_checkpoints: int = knob(3, "newest checkpoints kept, beside the best", minimum=1, maximum=1_000_000)


@dataclass
class TrainConfig:
    """A training run."""

    name: str = knob("run", "experiment name; runs go to runs/NAME")
    seed: int = knob(1, "of everything random", minimum=0, maximum=MAX_SEED)
    total_steps: int = knob(200_000_000, "agent steps", minimum=1, maximum=MAX_STEPS)
    run_dir: str | None = knob(None, "folder of this run; null is runs/NAME", place=True)
    resume: str = knob(
        "auto",
        "auto: go on if the folder has a checkpoint; never: refuse a used folder; else a checkpoint's path",
        place=True,
    )
    env: EnvConfig = field(default_factory=AtariConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    rule: RuleConfig = field(default_factory=RuleConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)


@dataclass
class EvaluateConfig:
    """An evaluation of one checkpoint; what is null follows the suite's own protocol."""

    checkpoint: str = knob(MISSING, "checkpoint or run folder", place=True)
    which: str = knob(
        "last", "of a run folder: its last checkpoint, or the best by return in training", choices=("last", "best")
    )
    episodes: int | None = knob(
        None,
        "games per split, run and policy; null is as the suite is evaluated",
        minimum=1,
        maximum=1_000_000,
    )
    runs: int | None = knob(
        None,
        "repetitions with the seeds seed, seed + 1, ...; null is as the suite is evaluated",
        minimum=1,
        maximum=100_000,
    )
    num_envs: int = knob(8, "streams", minimum=1, maximum=65_536)
    seed: int = knob(0, "environment seed", minimum=0, maximum=MAX_SEED)
    policy: str = knob(
        "auto",
        "how actions are chosen; auto is as the suite is evaluated",
        choices=("auto", "greedy", "sampled", "both"),
    )
    max_steps: int = knob(
        1_000_000, "steps of a game after which the evaluation gives up", minimum=1, maximum=MAX_STEPS
    )
    output: str | None = knob(None, "JSON file; null prints only", place=True)
    threads: int = knob(1, "torch threads", minimum=1, maximum=1024)
    device: str = knob("cpu", "cpu, cuda or cuda:N")
