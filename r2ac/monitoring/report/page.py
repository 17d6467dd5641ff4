"""The report's page: one HTML file that needs nothing else, without scripts, for any width and a light or dark screen."""

import html
import time
from collections.abc import Sequence

from r2ac.monitoring.metrics import METRICS
from r2ac.monitoring.panel import bottleneck
from r2ac.monitoring.report.plots import Drawing
from r2ac.monitoring.report.runs import Group, Run, differing_options

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 84rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.plots { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; } figcaption small { display: block; font-weight: 400; opacity: .75; }
svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; white-space: nowrap; }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.warning { color: light-dark(#b3261e, #ff8a80); font-weight: 600; }
"""

COLUMNS = (
    ("steps", "agent_steps", 0),
    ("games", "episodes", 0),
    ("return (last 100)", "mean_return_100", 2),
    ("steps/s", "steps_per_second", 0),
    ("lag p95", "policy_lag_p95", 1),
    ("refused", "contributions_refused", 0),
    ("actor restarts", "actor_restarts", 0),
    ("learner restarts", "learner_restarts", 0),
)
MUST_BE_ZERO = ("contributions_refused", "actor_restarts", "learner_restarts")


def render(groups: Sequence[Group], drawings: Sequence[Drawing]) -> str:
    """The whole page."""
    title = "Report: " + ", ".join(group.label for group in groups)
    runs = [run for group in groups for run in group.runs]
    banded = any(len(group.runs) > 1 for group in groups)
    note = "<p>A line is the mean over seeds, its band goes from the lowest to the highest seed.</p>" if banded else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p>Written {time.strftime("%Y-%m-%d %H:%M")}.</p>
<h2>Runs</h2>
<div class="wide">{_runs_table(runs)}</div>
<h2>Curves</h2>
{note}
<div class="plots">
{"".join(_figure(drawing) for drawing in drawings)}
</div>
{_levels(runs)}
<h2>Configuration: where the runs differ</h2>
<div class="wide">{_differences(groups)}</div>
</body>
</html>
"""


def _runs_table(runs: Sequence[Run]) -> str:
    head = ["run", "seed", "state", *(title for title, _, _ in COLUMNS), "limited by", "commit"]
    lines = [_row("th", head)]
    for run in runs:
        cells = [_cell(str(run.path)), _cell(str(run.seed)), _cell(run.state)]
        cells += [_number_cell(run, metric, digits) for _, metric, digits in COLUMNS]
        cells += [_cell(_limit(run)), _cell(run.git_revision[:12])]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _limit(run: Run) -> str:
    return bottleneck(run.last).removeprefix("bottleneck: ").replace(" of the actors' time", "") or "-"


def _number_cell(run: Run, metric: str, digits: int) -> str:
    value = run.newest(metric)
    warn = " warning" if metric in MUST_BE_ZERO and value else ""
    return f'<td class="number{warn}">{_number(value, digits)}</td>'


def _levels(runs: Sequence[Run]) -> str:
    levels = sorted({name for run in runs for name in run.last if name.startswith("level_return/")})
    if not levels:
        return ""
    lines = [_row("th", ["level", *(f"{run.name}, seed {run.seed}" for run in runs)])]
    for level in levels:
        cells = [f'<td class="number">{_number(run.newest(level), 2)}</td>' for run in runs]
        lines.append(f"<tr>{_cell(level.partition('/')[2])}{''.join(cells)}</tr>")
    return f'<h2>Return by level, last 100 games</h2>\n<div class="wide"><table>{"".join(lines)}</table></div>'


def _differences(groups: Sequence[Group]) -> str:
    rows = differing_options(groups)
    if not rows:
        return "<p>Nowhere.</p>"
    head = _row("th", ["option", *(group.label for group in groups)])
    return f"<table>{head}{''.join(_row('td', [option, *values]) for option, values in rows)}</table>"


def _figure(drawing: Drawing) -> str:
    metrics = [METRICS[name] for name in drawing.plot.metrics]
    healthy = "; ".join(dict.fromkeys(metric.healthy for metric in metrics if metric.healthy))
    meaning = "; ".join(dict.fromkeys(metric.meaning for metric in metrics))
    hint = html.escape(meaning + (f". Healthy: {healthy}" if healthy else ""))
    title = html.escape(drawing.plot.title)
    return f"<figure><figcaption>{title}<small>{hint}</small></figcaption>{drawing.svg}</figure>\n"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _cell(text: str) -> str:
    return f"<td>{html.escape(text)}</td>"


def _number(value: float | int | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
