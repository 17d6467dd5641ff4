"""All sinks of a run, behind one object."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from conf.schema import TrainConfig
from r2ac.monitoring.metrics import Row, check_row
from r2ac.monitoring.panel import Terminal, open_terminal
from r2ac.monitoring.sinks.continuation import Continuation, find_continuation
from r2ac.monitoring.sinks.event_files import TensorBoardSink
from r2ac.monitoring.sinks.isolated import IsolatedSink, to_error_stream
from r2ac.monitoring.sinks.prometheus import PrometheusSink
from r2ac.monitoring.sinks.run_files import JsonlSink, SummarySink
from r2ac.monitoring.sinks.sink import Sink
from r2ac.monitoring.sinks.wandb_run import WandbSink, new_run_id

METRICS_FILE = "metrics.jsonl"
FLUSH_S = 2.0
"""How long the run waits for its rows to be where they belong, before a copy of them is made."""
CLOSE_S = 10.0
"""How long sinks may take to close, all together."""
TERMINAL_CLOSE_S = 2.0
WANDB = "WandbSink"
"""Its key in checkpoints."""


class Sinks:
    """Never raises for what a sink does, nor waits for long. A context manager; leaving it closes them."""

    def __init__(
        self,
        sinks: list[IsolatedSink[Any]],
        announce: Callable[[str], None],
        *,
        terminal: IsolatedSink[Terminal] | None = None,
        metrics: Path | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._sinks = sinks
        self._terminal = terminal
        self._metrics = metrics
        self.event = announce
        """Something that a person should read once: a restart, a refused contribution."""
        self.tell = tell
        """Something that is as it should be, for who watches."""
        self.continuation = Continuation()
        self.state: dict[str, Any] = {WANDB: {"run_id": new_run_id()}}

    @property
    def work(self) -> bool:
        """Whether none has failed so far, or was left open."""
        return all(sink.works for sink in self._all())

    def write(self, row: Row) -> None:
        check_row(row)
        for sink in self._all():
            sink.do(lambda opened: opened.write(row))

    def flush(self) -> None:
        """Waits a moment for the rows to be where they belong."""
        deadline = time.monotonic() + FLUSH_S
        for sink in self._all():
            sink.flush(deadline)

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs to go on in the same place, JSON-ready."""
        return self.state

    def begin(self, agent_steps: int, wall_time_s: float, state: Mapping[str, Any]) -> None:
        """Called before the first row: logs go on there, with the state from the run's checkpoint if there is one."""
        if state.get(WANDB, {}).get("run_id"):
            self.state = dict(state)
        if self._metrics is not None:
            self.continuation = find_continuation(self._metrics, agent_steps, wall_time_s)

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._sinks:
            sink.end()
        deadline = time.monotonic() + CLOSE_S
        for sink in self._sinks:
            sink.join(deadline)
        if self._terminal is not None:  # the last, so that it can show what the others had to say
            self._terminal.end()
            self._terminal.join(time.monotonic() + TERMINAL_CLOSE_S)

    def _all(self) -> list[IsolatedSink[Any]]:
        return self._sinks if self._terminal is None else [*self._sinks, self._terminal]


def open_sinks(config: TrainConfig, run_dir: Path, texts: Mapping[str, str]) -> Sinks:
    """The sinks that the configuration asks for; ``texts`` stand beside the numbers in ``summary.json``.

    All but the terminal open at the first row: a run that is refused leaves nothing behind.
    """
    options = config.logging
    terminal = IsolatedSink[Terminal](
        "the terminal",
        lambda: open_terminal(options.terminal, config.name, config.total_steps),
        to_error_stream,
        loss="its lines are missing",
    )
    terminal.do(lambda opened: None)

    def announce(text: str) -> None:
        terminal.do(lambda opened: opened.event(text))

    def tell(text: str) -> None:
        terminal.do(lambda opened: opened.tell(text))

    def isolated(name: str, open_sink: Callable[[], Sink], loss: str = "rows are missing there") -> IsolatedSink[Sink]:
        return IsolatedSink(name, open_sink, announce, loss=loss)

    metrics = run_dir / METRICS_FILE
    opened: list[IsolatedSink[Any]] = []
    sinks = Sinks(opened, announce, terminal=terminal, metrics=metrics, tell=tell)
    later = "its rows follow when there is room"
    opened += [
        isolated(METRICS_FILE, lambda: JsonlSink(metrics, sinks.continuation), later),
        isolated("summary.json", lambda: SummarySink(run_dir / "summary.json", texts), later),
    ]
    if options.tensorboard:
        folder = run_dir / "tensorboard"
        opened.append(isolated("TensorBoard", lambda: TensorBoardSink(folder, sinks.continuation), later))
    if options.prometheus and config.fleet.kind == "ray":
        opened.append(isolated("Prometheus", lambda: PrometheusSink(config.name)))
    if options.wandb != "disabled":
        opened.append(
            isolated(
                "Weights & Biases",
                lambda: WandbSink(config, run_dir, sinks.state[WANDB]["run_id"], sinks.continuation, announce),
            )
        )
    return sinks
