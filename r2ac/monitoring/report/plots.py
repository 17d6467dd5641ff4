"""The plots of a report: which metrics each shows, and how runs of several seeds become a curve with a band."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from r2ac.monitoring.metrics import METRICS
from r2ac.monitoring.report.runs import Group, Run

GRID_POINTS = 300
"""Points of a curve; longer logs are averaged down to them."""
COLOURS = ("#2f7ed8", "#e8710a", "#2e9e5b", "#c43d7d", "#7e57c2", "#8d6e63", "#00a0a8", "#b59a00")
LINE_STYLES = ("-", "--", ":", "-.")
INK = "#010203"
"""Stands for the page's text colour: replaced in the SVG, so that a plot follows a light or a dark page."""
SIZE_INCHES = (4.8, 3.1)
"""Near the width of a phone, where a wider plot would be unreadable."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot; the metrics are drawn in different line styles."""

    slug: str
    title: str
    metrics: tuple[str, ...]
    logarithmic: bool = False

    @property
    def unit(self) -> str:
        return METRICS[self.metrics[0]].unit


PLOTS = (
    Plot("return", "Return, mean of the last 100 games", ("mean_return_100",)),
    Plot("episode_length", "Episode length", ("episode_length_mean",)),
    Plot("throughput", "Throughput", ("steps_per_second",)),
    Plot("policy_lag", "Policy lag", ("policy_lag_mean", "policy_lag_p95")),
    Plot("gradient_norms", "Gradient norms", ("gradient_norm_stem", "gradient_norm_core", "gradient_norm_heads"), True),
    Plot("sensitivity_age", "Age of the sensitivity", ("sensitivity_age_mean", "sensitivity_age_p95")),
    Plot("core_inputs", "Size of what the core reads", ("core_inputs_rms",), True),
    Plot("sensitivity_norm", "Norm of the sensitivity", ("sensitivity_norm",)),
    Plot(
        "fidelity_cosine",
        "Credit for the past: cosine to what it should be",
        ("sensitivity_fidelity_cosine", "rule_fidelity_cosine"),
    ),
    Plot(
        "fidelity_error",
        "Credit for the past: relative error",
        ("sensitivity_fidelity_error", "rule_fidelity_error"),
        True,
    ),
    Plot("policy_change", "Change of the policy, KL divergence", ("policy_change_kl", "importance_kl"), True),
    Plot("importance", "Importance weights", ("importance_mean", "importance_clipped_share")),
    Plot("td_error", "Errors of Q-learning, in rescaled values", ("td_error",), True),
    Plot("q_value", "Values of the actions that were replayed", ("q_value",)),
    Plot("replay_sequences", "Sequences in the replay", ("replay_sequences",)),
    Plot("replay_lag", "Versions since a replay was played", ("replay_lag_mean",)),
    Plot("entropy", "Entropy of the policy", ("entropy",)),
    Plot("explained_variance", "Explained variance of the value", ("explained_variance",)),
    Plot("value_loss", "Value loss", ("value_loss",), True),
    Plot("idle", "Waiting: actors for weights, learner for work", ("actor_wait_share", "learner_idle_share")),
    Plot("memory", "Memory of driver and actors", ("peak_rss_bytes", "rss_bytes")),
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn plot in both forms."""

    plot: Plot
    svg: str
    """For the page: no size of its own, ids that no other drawing has, text in the page's colour."""
    png: bytes
    """To be used elsewhere: black on white."""


def draw_all(groups: Sequence[Group]) -> list[Drawing]:
    """Every plot for which at least one run has data."""
    return [draw(plot, groups) for plot in PLOTS if any(_has_data(plot, run) for g in groups for run in g.runs)]


def draw(plot: Plot, groups: Sequence[Group]) -> Drawing:
    # Text stays text: small, readable by screen readers, drawn in the page's own font.
    with matplotlib.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": plot.slug}):
        page, paper = io.StringIO(), io.BytesIO()
        _figure(plot, groups, INK).savefig(page, format="svg", transparent=True, metadata={"Date": None})
        picture = _figure(plot, groups, "black")
        picture.axes[0].set_title(plot.title)  # the page has it beside the drawing
        picture.savefig(paper, format="png", dpi=200)
    return Drawing(plot, _for_page(page.getvalue(), plot), paper.getvalue())


def band(runs: Sequence[Run], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Agent steps, mean over seeds, and the lowest and highest seed; each seed only where it has data.

    Every log is averaged onto the same grid first, because seeds do not log at the same steps.
    """
    curves = [run.series(metric) for run in runs]
    curves = [(xs, ys) for xs, ys in curves if xs]
    if not curves:
        nothing = np.empty(0)
        return nothing, nothing, nothing, nothing
    first, last = min(xs[0] for xs, _ in curves), max(xs[-1] for xs, _ in curves)
    longest = max(len(xs) for xs, _ in curves)
    grid = np.linspace(first, last, min(GRID_POINTS, longest)) if last > first else np.array([first])
    values = np.stack([_on_grid(np.array(xs), np.array(ys), grid) for xs, ys in curves])
    present = np.isfinite(values)
    known = present.any(axis=0)
    count = present.sum(axis=0)[known]
    mean = np.where(present, values, 0.0).sum(axis=0)[known] / count
    low = np.where(present, values, np.inf).min(axis=0)[known]
    high = np.where(present, values, -np.inf).max(axis=0)[known]
    return grid[known], mean, low, high


def _on_grid(xs: np.ndarray, ys: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Mean of the points around each grid point, interpolated where there are none; NaN outside of the log."""
    if len(grid) == 1:
        return np.array([ys.mean()])
    half = (grid[1] - grid[0]) / 2
    starts, ends = np.searchsorted(xs, grid - half, "left"), np.searchsorted(xs, grid + half, "right")
    sums = np.concatenate([[0.0], np.cumsum(ys)])
    counts = ends - starts
    means = (sums[ends] - sums[starts]) / np.maximum(counts, 1)
    between = np.interp(grid, xs, ys, left=np.nan, right=np.nan)
    return np.where(counts > 0, means, between)


def _figure(plot: Plot, groups: Sequence[Group], ink: str) -> Figure:
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    for index, group in enumerate(groups):
        for style, metric in zip(LINE_STYLES, plot.metrics, strict=False):
            xs, mean, low, high = band(group.runs, metric)
            if not len(xs):
                continue
            colour = COLOURS[index % len(COLOURS)]
            marker = "o" if len(xs) == 1 else None
            axes.plot(xs, mean, style, color=colour, linewidth=1.4, marker=marker, label=_label(plot, metric, group))
            if len(group.runs) > 1:
                axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
    _dress(axes, plot, ink)
    return figure


def _dress(axes: Axes, plot: Plot, ink: str) -> None:
    if plot.logarithmic and np.isfinite(axes.dataLim.minposy):  # something above zero
        axes.set_yscale("log", nonpositive="mask")
    else:
        if max(map(abs, axes.get_ylim())) >= 1000:
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        if plot.unit != "reward" and axes.dataLim.y0 >= 0:
            axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("agent steps", color=ink)
    axes.set_ylabel(plot.unit, color=ink)
    axes.tick_params(colors=ink, which="both")
    axes.grid(alpha=0.25, color=ink, linewidth=0.5)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(frameon=False, fontsize=8, labelcolor=ink)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a dollar sign in a run's name is a dollar sign


def _label(plot: Plot, metric: str, group: Group) -> str:
    which = "" if len(plot.metrics) == 1 else " " + metric.removeprefix(_common_prefix(plot.metrics)).replace("_", " ")
    seeds = f" ({len(group.runs)} seeds)" if len(group.runs) > 1 else ""
    label = f"{group.label}{which}{seeds}"
    return f" {label}" if label.startswith("_") else label  # Matplotlib keeps such a name out of the legend


def _common_prefix(names: Sequence[str]) -> str:
    """Up to the last underscore that all have: ``policy_lag_`` of ``policy_lag_mean`` and ``policy_lag_p95``."""
    shared = names[0]
    while not all(name.startswith(shared) for name in names):
        shared = shared[:-1]
    return shared[: shared.rfind("_") + 1]


def _has_data(plot: Plot, run: Run) -> bool:
    return any(run.newest(metric) is not None for metric in plot.metrics)


def _for_page(svg: str, plot: Plot) -> str:
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\1{plot.slug}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{plot.title}" fill="currentColor" ', 1)
