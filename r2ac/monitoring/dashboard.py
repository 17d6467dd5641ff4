"""Writes Grafana's dashboard and docs/metrics.md from the table of metrics: ``python -m r2ac.monitoring.dashboard`` at the root.

One row per question (is it learning, is it fast, is it healthy) and one for the actors, under a line of headlines. Every metric of
``r2ac.monitoring.metrics`` is in a panel; units, meanings and healthy ranges come from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as styles
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)

from r2ac.monitoring.metrics import METRICS, markdown_table

UID = "r2ac"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
TABLE = "/public/r2ac/metrics.md"
"""Where compose.yaml puts docs/metrics.md."""
UNITS = {"share": "percentunit", "bytes": "bytes", "bytes/s": "Bps", "s": "s"}
"""Grafana's names of ours; other units are written beside the axis."""
COLUMNS = 24
"""Width of a dashboard, in Grafana's units."""


@dataclass(frozen=True, slots=True)
class Curves:
    """A panel with one curve per run and metric."""

    title: str
    metrics: tuple[str, ...]
    per_second: bool = False
    stacked: bool = False
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class Headline:
    """A number that is coloured when it is bad."""

    title: str
    metrics: tuple[str, ...]
    """Added up."""
    warn: float | int | None = None
    """Orange from here."""
    bad: float | int | None = None
    """Red from here."""


HEADLINES = (
    Headline("Return, last 100 games", ("mean_return_100",)),
    Headline("Done", ("progress",)),
    Headline("Agent steps per second", ("steps_per_second",)),
    Headline("Policy lag, 95 %", ("policy_lag_p95",), warn=10, bad=20),
    Headline("Actors", ("actors_alive",)),
    Headline("Restarts", ("actor_restarts", "learner_restarts", "engine_restarts"), warn=1, bad=10),
    Headline("Contributions refused", ("contributions_refused",), bad=1),
    Headline("Age of checkpoint", ("checkpoint_age_s",), warn=900, bad=1800),
)

ROWS: dict[str, tuple[Curves, ...]] = {
    "Is it learning?": (
        Curves("Return", ("mean_return_100", "episode_return_mean")),
        Curves("Return by level", ("level_return",)),
        Curves("Episode length", ("episode_length_mean",)),
        Curves("Entropy of the policy", ("entropy",)),
        Curves("Explained variance of the value", ("explained_variance",)),
        Curves("Losses per step", ("policy_loss", "value_loss")),
        Curves(
            "Gradient norm, whole and by part",
            ("gradient_norm", "gradient_norm_stem", "gradient_norm_core", "gradient_norm_heads"),
            logarithmic=True,
        ),
        Curves("Size of what the core reads", ("core_inputs_rms",), logarithmic=True),
        Curves("Norm of the sensitivity", ("sensitivity_norm", "sensitivity_norm_max"), logarithmic=True),
        Curves(
            "Credit for the past: cosine to what it should be", ("sensitivity_fidelity_cosine", "rule_fidelity_cosine")
        ),
        Curves(
            "Credit for the past: relative error",
            ("sensitivity_fidelity_error", "rule_fidelity_error"),
            logarithmic=True,
        ),
        Curves("Change of the policy, KL divergence", ("policy_change_kl", "importance_kl"), logarithmic=True),
        Curves("Importance weights", ("importance_mean", "importance_clipped_share", "clip_ratio_exceeded_share")),
        Curves("Size of the value targets", ("target_rms",)),
        Curves("Errors and values of a replay", ("td_error", "q_value")),
        Curves("Sequences in a replay", ("replay_sequences",)),
        Curves("Versions since a replay was played", ("replay_lag_mean",)),
        Curves("Learning rate", ("learning_rate",)),
        Curves("Agent steps and frames", ("agent_steps", "frames")),
        Curves("Updates and versions", ("updates", "policy_version")),
        Curves("Games", ("episodes",)),
        Curves("Steps by level", ("level_steps",)),
    ),
    "Is it fast?": (
        Curves("Throughput", ("steps_per_second", "frames_per_second")),
        Curves("Throughput by level", ("level_steps_per_second",)),
        Curves(
            "Where the actors' time goes", ("env_share", "act_share", "learn_share", "actor_wait_share"), stacked=True
        ),
        Curves("Learner without work", ("learner_idle_share",)),
        Curves("Gradients on the wire", ("wire_bytes_per_second",)),
        Curves("Gradient bytes per step", ("wire_bytes_per_step",)),
        Curves("Encoders in bfloat16", ("bfloat16_share",)),
        Curves("Passes as CUDA graphs", ("cuda_graphs_share",)),
        Curves("Progress", ("progress",)),
        Curves("Time spent and left", ("wall_time_s", "eta_s")),
    ),
    "Is it healthy?": (
        Curves("Policy lag", ("policy_lag_mean", "policy_lag_p95", "policy_lag_max")),
        Curves("Age of the sensitivity", ("sensitivity_age_mean", "sensitivity_age_p95", "sensitivity_age_max")),
        Curves(
            "Contributions per second",
            ("contributions_accepted", "contributions_damped", "contributions_dropped", "contributions_refused"),
            per_second=True,
        ),
        Curves("Contributions dropped", ("dropped_share",)),
        Curves("Restarts", ("actor_restarts", "learner_restarts", "engine_restarts")),
        Curves("Streams that began anew", ("streams_reset",)),
        Curves("Actors in the fleet", ("actors_alive",)),
        Curves("Environment steps over their deadline", ("env_deadlines_missed",)),
        Curves("Age of the checkpoint", ("checkpoint_age_s",)),
        Curves("Object store", ("object_store_bytes",)),
        Curves("Memory", ("rss_bytes", "peak_rss_bytes", "replay_bytes")),
        Curves("Level cache", ("cache_hits", "cache_misses", "cache_failures")),
    ),
    "Per actor": (
        Curves("Throughput by actor", ("actor_steps_per_second",)),
        Curves(
            "Throughput of a large fleet's actors",
            ("actor_steps_per_second_p5", "actor_steps_per_second_p50", "actor_steps_per_second_p95"),
        ),
        Curves("Throughput of the slowest actors", ("slowest_actor_steps_per_second",)),
        Curves("Which actors are the slowest", ("slowest_actor",)),
        Curves("Memory of the largest actor", ("actor_rss_bytes_max",)),
    ),
}

NOT_SHOWN: dict[str, str] = {}
"""Metrics that are in no panel on purpose, and why."""


def expression(metric: str, *, per_second: bool = False) -> str:
    """PromQL for a metric. A restarted driver is a new series to Ray: what remains of the old one is covered by ``max``."""
    per = METRICS[metric].per
    series = f'ray_rtrl_{metric}{{run=~"$run"}}'
    if per_second:
        series = f"rate({series}[$__rate_interval])"
    return f"max by (run{', ' + per if per else ''}) ({series})"


def total(metrics: Sequence[str]) -> str:
    """PromQL for the sum of metrics; one that a run does not have counts as nothing."""
    if len(metrics) == 1:
        return expression(metrics[0])
    names = "|".join(f"ray_rtrl_{name}" for name in metrics)
    return f'sum by (run) (max by (run, __name__) ({{__name__=~"{names}", run=~"$run"}}))'


def expressions() -> list[str]:
    """Of all panels; ``$run`` and ``$__rate_interval`` are Grafana's to fill in."""
    headlines = [total(panel.metrics) for panel in HEADLINES]
    curves = [
        expression(name, per_second=panel.per_second)
        for row in ROWS.values()
        for panel in row
        for name in panel.metrics
    ]
    return [*headlines, *curves]


def render() -> str:
    """The dashboard as Grafana's provisioning reads it."""
    board = (
        grafana.Dashboard("r2ac")
        .uid(UID)
        .description("Is it learning, is it fast, is it healthy? Made by r2ac/monitoring/dashboard.py; do not edit.")
        .tags(["r2ac"])
        .refresh("10s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(_link())
        .with_variable(
            grafana.QueryVariable("run")
            .label("Run")
            .datasource(SOURCE)
            .query("label_values(ray_rtrl_agent_steps, run)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(text="All", value="$__all"))
        )
    )
    for panel in HEADLINES:
        board = board.with_panel(_headline(panel))
    for title, panels in ROWS.items():
        board = board.with_row(grafana.Row(title))
        for panel in panels:
            board = board.with_panel(_curves(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def _headline(panel: Headline) -> stat.Panel:
    steps = [Threshold(value=None, color="green")]
    steps += [Threshold(value=panel.warn, color="orange")] if panel.warn is not None else []
    steps += [Threshold(value=panel.bad, color="red")] if panel.bad is not None else []
    return (
        stat.Panel()
        .title(panel.title)
        .description(_description(panel.metrics))
        .links([_link()])
        .datasource(SOURCE)
        .unit(_unit(panel.metrics[0]))
        .thresholds(grafana.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .graph_mode(styles.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("-")
        .height(4)
        .span(COLUMNS // len(HEADLINES))
        .with_target(_target(total(panel.metrics), "{{run}}", "A"))
    )


def _curves(panel: Curves) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(_description(panel.metrics))
        .links([_link()])
        .datasource(SOURCE)
        .unit("ops" if panel.per_second else _unit(panel.metrics[0]))
        .axis_label("" if panel.per_second or _unit(panel.metrics[0]) != "short" else METRICS[panel.metrics[0]].unit)
        .line_width(2)
        .fill_opacity(40 if panel.stacked else 0)
        .show_points(styles.VisibilityMode.NEVER)
        .height(8)
        .span(COLUMNS // 3)
    )
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(styles.StackingMode.NORMAL)).min(0).max(1)
    if panel.logarithmic:
        built = built.scale_distribution(common.ScaleDistributionConfig().type(styles.ScaleDistribution.LOG).log(10))
    for index, metric in enumerate(panel.metrics):
        per = METRICS[metric].per
        legend = " ".join(
            [*([metric] if len(panel.metrics) > 1 else []), "{{run}}", *([f"{{{{{per}}}}}"] if per else [])]
        )
        built = built.with_target(
            _target(expression(metric, per_second=panel.per_second), legend, chr(ord("A") + index))
        )
    return built


def _target(query: str, legend: str, reference: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(query).legend_format(legend).ref_id(reference).range()


def _description(metrics: Sequence[str]) -> str:
    lines = []
    for name in metrics:
        metric = METRICS[name]
        healthy = f" Healthy: {metric.healthy}." if metric.healthy else ""
        lines.append(f"**{name}** {f'({metric.unit})' if metric.unit else ''}: {metric.meaning}.{healthy}")
    return "\n\n".join(lines)


def _unit(metric: str) -> str:
    return UNITS.get(METRICS[metric].unit, "short")


def _link() -> grafana.DashboardLink:
    return (
        grafana.DashboardLink("What these quantities mean").type(DashboardLinkType.LINK).url(TABLE).target_blank(True)
    )


def metrics_page() -> str:
    """docs/metrics.md."""
    return f"""# Metrics

Every quantity, once, under the name that it has in `metrics.jsonl`, TensorBoard (after its group), W&B and on the terminal.
Prometheus has it as `ray_rtrl_NAME{{run="..."}}`. A name with `/LEVEL` or `/ACTOR` exists once for each; in Prometheus that is a label.
The x axis is `agent_steps`. Counters never fall, except when a run goes on from a checkpoint.
This page is written by `python -m r2ac.monitoring.dashboard`.

{markdown_table()}"""


PAGES = {"docker/grafana/dashboards/r2ac.json": render, "docs/metrics.md": metrics_page}
"""What this program writes."""

if __name__ == "__main__":
    for name, write in PAGES.items():
        Path(name).write_text(write(), encoding="utf-8")
