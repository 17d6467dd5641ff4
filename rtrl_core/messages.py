"""What passes between actors and the learner. Immutable; tensors inside are owned by the receiver.

actor                                   learner
  unroll, gradient   -- GradientContribution -->   add; when a batch is complete: update, version += 1
  load if newer      <------ WeightsSnapshot ---   put once per version, passed by reference
"""

from dataclasses import dataclass, field

from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class WeightsSnapshot:
    version: int
    """Counts updates; never goes back, also not after a failure of the learner."""
    layout: str
    """``ParameterLayout.fingerprint`` of the network it fits."""
    vector: Float[Tensor, " parameters"]
    """Weights, float32, on the CPU."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished game."""

    episode_return: float
    """Raw, undiscounted."""
    length: int
    """Steps."""
    level: int | None = None
    """Index into ``EnvSpec.levels``."""


@dataclass(frozen=True, slots=True)
class UnrollStatistics:
    """What an actor reports of one unroll, beside the gradient. Sums are over valid steps."""

    policy_loss: float
    value_loss: float
    entropy: float
    target_sum: float
    """Of value targets and their squares, and squared errors: enough for the explained variance of any number of unrolls."""
    target_square_sum: float
    error_square_sum: float
    sensitivity_norm: float
    """Root mean square over streams."""
    sensitivity_norm_max: float
    """Of the largest stream, before those that were reset."""
    streams_reset: int
    """Streams whose numbers ran away: their state began anew inside their episode."""
    sensitivity_age_mean: float
    """Policy versions since the oldest contribution inside the sensitivity, averaged over streams."""
    sensitivity_age_max: int
    env_time_s: float
    act_time_s: float
    learn_time_s: float
    wait_time_s: float
    """Between the end of the last unroll and the start of this one."""
    rss_bytes: int
    episodes: tuple[Episode, ...] = field(default=())
    level_steps: tuple[int, ...] = field(default=())
    """Steps per level of a multi-task suite, by index."""
    env_counters: dict[str, float] = field(default_factory=dict)
    """``VectorEnv.statistics()`` at the end of the unroll."""
    core_inputs_rms: float | None = None
    """Root mean square of what the core read; ``None`` where nothing is learned from the unroll as a whole."""
    bfloat16: bool = False
    """Whether the encoder computed in bfloat16, which ``actors.autocast=auto`` leaves to the actor's machine."""
    cuda_graphs: bool = False
    """Whether its acting passes were graphs (``actors.cuda_graphs``)."""
    sensitivity_fidelity_cosine: float | None = None
    """Of the credit for the past in one stream, against a fresh computation under the present weights; ``None`` where not measured."""
    sensitivity_fidelity_error: float | None = None
    """Relative."""
    rule_fidelity_cosine: float | None = None
    """The same against an exact rule, where the learning rule is not."""
    rule_fidelity_error: float | None = None
    losses_known: bool = True
    """Whether losses, entropy and targets mean anything: who learns from a replay knows them of no unroll."""
    importance_sum: float | None = None
    """Of ``pi(a_t) / mu(a_t)``, the policy that learned over the one that acted; ``None`` where they are one."""
    importance_clipped: int = 0
    """Steps at which it was above 1."""
    importance_steps: int = 0
    """That these are of."""
    clip_ratio_exceeded: int | None = None
    """Steps at which a ratio is further from 1 than ``loss.clip_ratio``; ``None`` without one."""
    policy_change_sum: float = 0.0
    """KL divergence of the policy under these weights from that under the actor's weights before, over streams at the first step."""
    policy_change_streams: int = 0
    """That it is a sum over."""
    divergence_sum: float = 0.0
    """Of ``r - 1 - log r`` for the same ratios ``r``: on average ``KL(mu || pi)``, never negative (Schulman 2020)."""


@dataclass(frozen=True, slots=True)
class ContributionHeader:
    """Identifies and counts a contribution; small enough to be looked at without moving the gradient."""

    actor_id: int
    incarnation: int
    """Starts of this actor: a respawned one counts from zero again under the next incarnation."""
    sequence: int
    """Unrolls of this incarnation. ``(actor_id, incarnation, sequence)`` is unique: nothing is applied twice."""
    policy_version: int
    """Weights that acted, and that the gradient is taken at."""
    num_steps: int
    """Valid transitions: what is counted as agent steps."""
    num_frames: int
    num_segments: int
    """Unrolls of one stream inside: B."""


@dataclass(frozen=True, slots=True)
class GradientContribution:
    """The exact gradient of one unroll's summed loss, summed over its steps and streams."""

    header: ContributionHeader
    layout: str
    """``ParameterLayout.fingerprint``."""
    gradient: Float[Tensor, " parameters"]
    """Float32, or bfloat16 with the rounding error kept on the actor for the next one."""
    statistics: UnrollStatistics

    @property
    def size_bytes(self) -> int:
        """Of the gradient on the wire: depends on the network, never on T or B."""
        return self.gradient.numel() * self.gradient.element_size()


@dataclass(frozen=True, slots=True)
class WeightsContribution:
    """Where the weights of an actor stand that learns by itself, at every step; the only one of its run."""

    header: ContributionHeader
    """``policy_version`` is that of the weights it began the unroll with."""
    layout: str
    """``ParameterLayout.fingerprint``."""
    weights: Float[Tensor, " parameters"]
    """All of them, float32, after the unroll's last update."""
    step_size: float
    """Of the actor's updates, averaged over them: the learning rate that the bound has left of ``alpha``."""
    statistics: UnrollStatistics

    @property
    def size_bytes(self) -> int:
        return self.weights.numel() * self.weights.element_size()
