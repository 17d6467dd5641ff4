"""Every quantity of the system, once: its name, unit, meaning and healthy range. Log rows, dashboards and docs come from here.

A log row is a flat dict keyed by these names. A metric that exists once per level, actor or rank is written ``name/tag``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Row = dict[str, float | int | None]
"""A log row."""


@dataclass(frozen=True, slots=True)
class Metric:
    unit: str
    meaning: str
    healthy: str = ""
    group: Literal["learning", "speed", "health", "actor"] = "learning"
    kind: Literal["gauge", "counter"] = "gauge"
    per: str = ""
    """``level``, ``actor``, ``rank``, or empty: what a tag after the slash names."""


def _learning(unit: str, meaning: str, healthy: str = "", *, per: str = "", counter: bool = False) -> Metric:
    return Metric(unit, meaning, healthy, "learning", "counter" if counter else "gauge", per)


def _speed(unit: str, meaning: str, healthy: str = "", *, per: str = "", counter: bool = False) -> Metric:
    return Metric(unit, meaning, healthy, "speed", "counter" if counter else "gauge", per)


def _health(unit: str, meaning: str, healthy: str = "", *, counter: bool = False) -> Metric:
    return Metric(unit, meaning, healthy, "health", "counter" if counter else "gauge")


def _actor(unit: str, meaning: str, healthy: str, *, per: str = "") -> Metric:
    return Metric(unit, meaning, healthy, "actor", per=per)


METRICS: dict[str, Metric] = {
    # Is it learning?
    "agent_steps": _learning("steps", "decisions in accepted contributions; the x axis of everything", counter=True),
    "frames": _learning("frames", "steps times action repeat", counter=True),
    "updates": _learning("updates", "optimizer steps", counter=True),
    "policy_version": _learning("versions", "version of the newest weights; goes on after a failure of the learner"),
    "episodes": _learning("games", "finished games", counter=True),
    "mean_return_100": _learning("reward", "mean raw return of the last 100 games", "rises"),
    "episode_return_mean": _learning("reward", "mean raw return of the games finished in the interval"),
    "episode_length_mean": _learning("steps", "mean length of the games finished in the interval"),
    "entropy": _learning("nats", "mean entropy of the policy per step", "falls slowly, stays above 0.05"),
    "policy_loss": _learning("", "policy loss per step"),
    "value_loss": _learning("", "half the squared error of the value per step"),
    "explained_variance": _learning(
        "", "share of the value targets' variance that the value explains", "rises towards 1"
    ),
    "gradient_norm": _learning("", "global norm before clipping, mean over updates", "mostly below learner.clip_norm"),
    "gradient_norm_stem": _learning("", "norm of the encoder's part", "not 0 unless frozen"),
    "gradient_norm_core": _learning("", "norm of the recurrent core's part"),
    "gradient_norm_heads": _learning("", "norm of the heads' part"),
    "core_inputs_rms": _learning(
        "",
        "root mean square of what the core reads: features, last reward and action; of algorithm=r2ac and impala",
        "does not grow without end",
    ),
    "sensitivity_norm": _learning(
        "", "norm of the RTRL sensitivity per stream (root mean square)", "bounded; 0 under TBPTT"
    ),
    "sensitivity_norm_max": _learning("", "norm of the largest stream's sensitivity in the interval", "below 1e6"),
    "sensitivity_fidelity_cosine": _learning(
        "",
        "cosine between the credit for the past that the carried sensitivity gives, and what one computed from the episode's start "
        "under the present weights gives; of one stream, every actors.fidelity_every unrolls",
        "above 0.99",
    ),
    "sensitivity_fidelity_error": _learning("", "relative error of that credit", "below 0.1"),
    "rule_fidelity_cosine": _learning(
        "", "the same cosine against an exact rule, where the learning rule is not one and the core small enough"
    ),
    "rule_fidelity_error": _learning("", "relative error against an exact rule", "below 1, that of truncated BPTT"),
    "importance_mean": _learning(
        "",
        "probability of the actions under the policy that learns over that under the one that acted, mean; of algorithm=impala, and of "
        "later passes (algorithm.options.passes)",
        "near 1",
    ),
    "importance_clipped_share": _learning("share", "steps at which it is above 1, where V-trace clips it"),
    "importance_kl": _learning("nats", "approximate KL divergence of the policy that learns from the one that acted"),
    "clip_ratio_exceeded_share": _learning(
        "share", "steps at which that probability has changed by more than loss.clip_ratio", "below 0.3"
    ),
    "policy_change_kl": _learning(
        "nats",
        "approximate KL divergence of the policy from that under the weights of the actor's unroll before; of algorithm=r2ac",
        "below 0.05",
    ),
    "target_rms": _learning("", "root of the mean square of the value targets"),
    "td_error": _learning(
        "", "size of the errors of n-step double Q-learning, in rescaled values; of algorithm=r2d2", "falls"
    ),
    "q_value": _learning("", "mean value of the actions that were replayed, rescaled", "bounded"),
    "replay_sequences": _learning("sequences", "that can be drawn from the replay"),
    "replay_lag_mean": _learning("versions", "of the learner since those that acted in what is replayed"),
    "learning_rate": _learning("", "of the last update"),
    "level_return": _learning("reward", "mean raw return of a level's last 100 games", per="level"),
    "level_steps": _learning("steps", "steps spent in a level", per="level", counter=True),
    # Is it fast?
    "progress": _speed("share", "agent steps over total_steps"),
    "wall_time_s": _speed("s", "time spent training, over all starts of the run"),
    "eta_s": _speed("s", "time left at the present speed"),
    "steps_per_second": _speed("steps/s", "agent steps per second"),
    "frames_per_second": _speed("frames/s", "frames per second"),
    "level_steps_per_second": _speed("steps/s", "agent steps per second in a level", per="level"),
    "bfloat16_share": _speed(
        "share", "of the agent steps whose encoder computed in bfloat16; actors.autocast=auto decides by machine"
    ),
    "cuda_graphs_share": _speed("share", "of the agent steps that were acted in CUDA graphs, see actors.cuda_graphs"),
    "env_share": _speed("share", "of the actors' time: waiting for environments"),
    "act_share": _speed("share", "of the actors' time: forward passes while acting"),
    "learn_share": _speed("share", "of the actors' time: computing gradients"),
    "actor_wait_share": _speed("share", "of the actors' time: waiting for weights", "below 0.1"),
    "learner_idle_share": _speed("share", "of the learner's time without work", "above 0.2"),
    "wire_bytes_per_step": _speed("bytes", "of what reaches the learner, per agent step"),
    "wire_bytes_per_second": _speed("bytes/s", "of what reaches the learner"),
    # Is it healthy?
    "policy_lag_mean": _health("versions", "learner's version minus that of an arriving contribution", "below 5"),
    "policy_lag_p95": _health("versions", "95th percentile of the lag", "below learner.max_lag"),
    "policy_lag_max": _health("versions", "largest lag of the run", "at most learner.max_lag"),
    "sensitivity_age_mean": _health("versions", "updates since the oldest contribution inside the sensitivity began"),
    "sensitivity_age_p95": _health("versions", "95th percentile over contributions of that age"),
    "sensitivity_age_max": _health("versions", "largest such age"),
    "contributions_accepted": _health("", "contributions added with full weight", counter=True),
    "contributions_damped": _health("", "late contributions added with less weight", counter=True),
    "contributions_dropped": _health(
        "", "late or repeated contributions left out", "below 1 % of accepted", counter=True
    ),
    "dropped_share": _health("share", "of the interval's contributions: late or repeated, left out", "below 0.05"),
    "contributions_refused": _health("", "contributions that were not finite or of another network", "0", counter=True),
    "streams_reset": _health(
        "",
        "streams whose state or sensitivity ran away and began anew inside an episode; of algorithm=impala also those that the "
        "learner left out",
        "0",
        counter=True,
    ),
    "actor_restarts": _health("", "actors, or aggregators with theirs, started again after dying", "0", counter=True),
    "learner_restarts": _health("", "learners started again after dying", "0", counter=True),
    "actors_alive": _health("actors", "actors in the fleet", "the number asked for"),
    "engine_restarts": _health("", "environment engines started again", "0", counter=True),
    "env_deadlines_missed": _health("", "environment steps over their deadline", "0", counter=True),
    "cache_hits": _health("", "levels found in the level cache", counter=True),
    "cache_misses": _health("", "levels that had to be built", counter=True),
    "cache_failures": _health("", "levels that were built and could not be kept in the level cache", "0", counter=True),
    "checkpoint_age_s": _health("s", "since the last checkpoint", "below twice logging.checkpoint_interval_s"),
    "replay_bytes": _health("bytes", "kept in the replay", "at most algorithm.options.replay_bytes"),
    "object_store_bytes": _health("bytes", "in Ray's object store", "below 10 contributions per actor"),
    "rss_bytes": _health("bytes", "memory of the driver process", "constant"),
    "peak_rss_bytes": _health("bytes", "largest memory of driver and actors together", "constant"),
    # Per actor
    "actor_steps_per_second": Metric(
        "steps/s",
        "agent steps per second of an actor, in fleets of up to 64",
        "equal among actors",
        "actor",
        per="actor",
    ),
    "actor_steps_per_second_p5": _actor(
        "steps/s", "of larger fleets: the 5th percentile of the actors' speeds", "near p50"
    ),
    "actor_steps_per_second_p50": _actor("steps/s", "of larger fleets: the median of the actors' speeds", "constant"),
    "actor_steps_per_second_p95": _actor(
        "steps/s", "of larger fleets: the 95th percentile of the actors' speeds", "near p50"
    ),
    "slowest_actor": _actor("", "of larger fleets: the numbers of the ten slowest actors", "changing", per="rank"),
    "slowest_actor_steps_per_second": _actor(
        "steps/s", "of larger fleets: the speeds of the ten slowest; 0 is one that sent nothing", "near p5", per="rank"
    ),
    "actor_rss_bytes_max": Metric("bytes", "memory of the largest actor process", "constant", "actor"),
}


def split_name(name: str) -> tuple[str, str]:
    """``level_return/rooms_watermaze`` -> (``level_return``, ``rooms_watermaze``); the tag is empty where there is none."""
    metric, _, tag = name.partition("/")
    return metric, tag


def check_row(row: Mapping[str, float | int | None]) -> None:
    """A row may hold only what the table has, tagged exactly where the table says so.

    Raises:
        KeyError: naming the first entry that is not in the table.
    """
    for name in row:
        metric, tag = split_name(name)
        if metric not in METRICS or bool(METRICS[metric].per) != bool(tag):
            raise KeyError(f"{name} is not in r2ac/monitoring/metrics.py: every quantity is named there once")


def markdown_table(groups: Iterable[str] = ("learning", "speed", "health", "actor")) -> str:
    """The table of docs/metrics.md."""
    titles = {"learning": "Is it learning?", "speed": "Is it fast?", "health": "Is it healthy?", "actor": "Per actor"}
    lines: list[str] = []
    for group in groups:
        lines += [f"## {titles[group]}", "", "| name | unit | kind | meaning | healthy |", "|---|---|---|---|---|"]
        for name, metric in METRICS.items():
            if metric.group == group:
                shown = f"{name}/{metric.per.upper()}" if metric.per else name
                lines.append(f"| `{shown}` | {metric.unit} | {metric.kind} | {metric.meaning} | {metric.healthy} |")
        lines.append("")
    return "\n".join(lines)
