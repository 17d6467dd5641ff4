"""What a person sees while training: a live panel on a terminal, plain lines elsewhere, or nothing."""

import sys
import time
from collections import deque
from typing import Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from conf.one_line import visible
from conf.places import redacted
from r2ac.monitoring.metrics import Row

DROPPED_SHARE = 0.05
"""Of the contributions of an interval; more than that is what costs most."""


@runtime_checkable
class Terminal(Protocol):
    def write(self, row: Row) -> None: ...

    def event(self, text: str) -> None: ...

    def tell(self, text: str) -> None: ...

    def close(self) -> None: ...


def open_terminal(kind: str, name: str, total_steps: int) -> Terminal:
    """``kind``: panel, plain, none, or auto, which is a panel where there is a terminal to draw it on."""
    if kind == "auto":
        kind = "panel" if sys.stdout.isatty() else "plain"
    if kind == "panel":
        return LivePanel(name, total_steps, Console())
    return PlainLines() if kind == "plain" else Silence()


class Silence:
    """Nothing but what went wrong, on the error stream."""

    def write(self, row: Row) -> None:
        pass

    def event(self, text: str) -> None:
        print(visible(redacted(text)), file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class PlainLines:
    """One line per interval."""

    def write(self, row: Row) -> None:
        print(summary_line(row), flush=True)

    def event(self, text: str) -> None:
        print(f"* {visible(redacted(text))}", flush=True)

    def tell(self, text: str) -> None:
        print(visible(redacted(text)), flush=True)

    def close(self) -> None:
        pass


class LivePanel:
    """A panel that is redrawn in place, with the last few events below it."""

    def __init__(self, name: str, total_steps: int, console: Console) -> None:
        self._name = name
        self._total_steps = total_steps
        self._events: deque[str] = deque(maxlen=4)
        self._row: Row = {"steps_per_second": None}
        self._live = Live(self._draw(), console=console, refresh_per_second=2, transient=False)
        self._live.start()

    def write(self, row: Row) -> None:
        self._row = row
        self._live.update(self._draw())

    def event(self, text: str) -> None:
        self._events.append(f"{time.strftime('%H:%M:%S')}  {visible(redacted(text))}")
        self._live.update(self._draw())

    def tell(self, text: str) -> None:
        """Above the panel, where it stays."""
        self._live.console.print(Text(visible(redacted(text))))

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> Panel:
        row = self._row
        steps = row.get("agent_steps") or 0
        table = Table.grid(padding=(0, 2), expand=True)
        for _ in range(4):
            table.add_column(ratio=1)
        cells = [
            ("return (last 100)", _number(row.get("mean_return_100"), 2)),
            ("games", _number(row.get("episodes"))),
            ("agent steps/s", _number(row.get("steps_per_second"))),
            ("frames/s", _number(row.get("frames_per_second"))),
            ("entropy", _number(row.get("entropy"), 3)),
            ("gradient norm", _number(row.get("gradient_norm"), 2)),
            ("policy lag", _number(row.get("policy_lag_mean"), 1)),
            ("restarts", _number((row.get("actor_restarts") or 0) + (row.get("learner_restarts") or 0))),
        ]
        for start in range(0, len(cells), 4):
            table.add_row(
                *(Text.assemble((f"{label}\n", "dim"), (value, "bold")) for label, value in cells[start : start + 4])
            )
        head = Text.assemble(
            f"{steps:,} of {self._total_steps:,} agent steps   ",
            (f"{_duration(row.get('eta_s'))} left", "dim"),
            "   ",
            bottleneck(row),
        )
        events = Text("\n".join(self._events), style="yellow")
        bar = Table.grid(expand=True)  # a bar by itself does not end its line
        bar.add_row(ProgressBar(total=self._total_steps, completed=int(steps)))
        return Panel(Group(head, bar, table, events), title=Text(self._name), border_style="blue")


def summary_line(row: Row) -> str:
    """A row in one line of text."""
    restarts = (row.get("actor_restarts") or 0) + (row.get("learner_restarts") or 0)
    parts = [
        f"{row.get('agent_steps') or 0:>12,} steps",
        f"{100 * (row.get('progress') or 0):5.1f} %",
        f"{_number(row.get('steps_per_second'))} steps/s",
        f"{_number(row.get('frames_per_second'))} frames/s",
        f"return {_number(row.get('mean_return_100'), 2)}",
        f"lag {_number(row.get('policy_lag_mean'), 1)}",
        f"gradient {_number(row.get('gradient_norm'), 2)}",
        f"entropy {_number(row.get('entropy'), 3)}",
        f"restarts {restarts}",
        f"{_duration(row.get('eta_s'))} left",
        bottleneck(row),
    ]
    return "  ".join(part for part in parts if part)


def bottleneck(row: Row) -> str:
    """What limits the speed: work that is thrown away, or by the shares of time the environment, acting, gradients, or the learner.

    A run has no speed before its second contribution.
    """
    if row.get("steps_per_second", 0.0) is None:
        return "starting"
    if row.get("env_share") is None:
        return ""
    if (dropped := row.get("dropped_share") or 0.0) > DROPPED_SHARE:
        return f"bottleneck: policy lag ({100 * dropped:.0f} % of the contributions are too late and dropped)"
    if (row.get("actor_wait_share") or 0.0) > 0.2 and (row.get("learner_idle_share") or 1.0) < 0.1:
        return "bottleneck: learner"
    shares = {
        "environment": row.get("env_share") or 0.0,
        "acting": row.get("act_share") or 0.0,
        "gradients": row.get("learn_share") or 0.0,
        "waiting for weights": row.get("actor_wait_share") or 0.0,
    }
    worst = max(shares, key=lambda name: shares[name])
    return f"bottleneck: {worst} ({100 * shares[worst]:.0f} % of the actors' time)"


def _number(value: float | int | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _duration(seconds: float | int | None) -> str:
    if seconds is None:
        return "-"
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
