"""Where log rows go: files, TensorBoard, Weights & Biases, Prometheus, the terminal. All write the same row, one call per interval."""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from conf.load import to_yaml
from conf.schema import TrainConfig
from learner.metrics import METRICS, check_row, split_name
from learner.panel import open_terminal

Row = Mapping[str, float | int | None]


@runtime_checkable
class Sink(Protocol):
    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class Sinks:
    """All sinks of a run. A context manager; leaving it closes them."""

    def __init__(self, sinks: list[Sink], announce: Callable[[str], None]) -> None:
        self._sinks = sinks
        self.event = announce
        """Something that a person should read once: a restart, a refused contribution."""

    def write(self, row: Row) -> None:
        check_row(row)
        for sink in self._sinks:
            sink.write(row)

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs to go on in the same place, JSON-ready."""
        return {type(sink).__name__: sink.get_state() for sink in self._sinks if isinstance(sink, WandbSink)}

    def set_state(self, state: dict[str, Any]) -> None:
        for sink in self._sinks:
            if isinstance(sink, WandbSink) and type(sink).__name__ in state:
                sink.set_state(state[type(sink).__name__])

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._sinks:
            sink.close()


def open_sinks(config: TrainConfig, run_dir: Path, texts: Mapping[str, str]) -> Sinks:
    """The sinks that the configuration asks for; ``texts`` stand beside the numbers in ``summary.json``.

    Raises:
        OSError: if the run folder cannot be written.
    """
    options = config.logging
    terminal = open_terminal(options.terminal, config.name, config.total_steps)
    sinks: list[Sink] = [JsonlSink(run_dir / "metrics.jsonl"), SummarySink(run_dir / "summary.json", texts), terminal]
    if options.tensorboard:
        sinks.append(TensorBoardSink(run_dir / "tensorboard"))
    if options.prometheus and config.fleet.kind == "ray":
        sinks.append(PrometheusSink(config.name))
    if options.wandb != "disabled":
        sinks.append(WandbSink(config, run_dir, terminal.event))
    return Sinks(sinks, terminal.event)


class JsonlSink:
    """One JSON object per interval, appended. A line that a crash left half-written is removed before the next is added."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            _drop_unfinished_line(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        self._file.write(json.dumps(_plain(row)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class SummarySink:
    """The newest row as one JSON file, replaced whole: a run that was killed has one too."""

    def __init__(self, path: Path, texts: Mapping[str, str]) -> None:
        self._path = path
        self._texts = dict(texts)

    def write(self, row: Row) -> None:
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**_plain(row), **self._texts}, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._path)

    def close(self) -> None:
        pass


class TensorBoardSink:
    """Scalars in groups, x axis = agent steps. Opened at the first row: a run that never starts leaves no empty curve."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, row: Row) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in _numbers(row).items():
            self._writer.add_scalar(f"{METRICS[split_name(name)[0]].group}/{name}", value, int(row["agent_steps"] or 0))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class PrometheusSink:
    """Gauges through Ray's metrics agent, which Prometheus scrapes: ``ray_rtrl_NAME{run=...}``, tagged per level or actor.

    Totals are gauges too: a resumed run must not start them at zero again.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {}

    def write(self, row: Row) -> None:
        import ray

        if not ray.is_initialized():
            return
        for name, value in _numbers(row).items():
            metric, tag = split_name(name)
            per = METRICS[metric].per
            tags = {"run": self._run} | ({per: tag} if per else {})
            self._gauge(metric, tuple(tags)).set(value, tags)

    def _gauge(self, metric: str, tag_keys: tuple[str, ...]) -> Any:
        if metric not in self._gauges:
            from ray.util.metrics import Gauge

            self._gauges[metric] = Gauge(f"rtrl_{metric}", description=METRICS[metric].meaning, tag_keys=tag_keys)
        return self._gauges[metric]

    def close(self) -> None:
        pass


class WandbSink:
    """Weights & Biases, online or offline. A server that does not answer in time costs the upload, not the run."""

    def __init__(self, config: TrainConfig, run_dir: Path, announce: Callable[[str], None]) -> None:
        self._config = config
        self._run_dir = run_dir
        self._announce = announce
        self._run_id: str | None = None
        self._run: Any = None

    def write(self, row: Row) -> None:
        if self._run is None:
            self._run = self._open()
        self._run.log(_numbers(row))

    def _open(self) -> Any:
        import wandb

        options = self._config.logging
        arguments: dict[str, Any] = {
            "project": options.wandb_project,
            "entity": options.wandb_entity,
            "name": self._config.name,
            "id": self._run_id,
            "resume": "allow" if self._run_id else None,
            "dir": str(self._run_dir),
            "config": _nested(self._config),
            "settings": wandb.Settings(init_timeout=options.wandb_init_timeout_s, console="off", silent=True),
        }
        try:
            run = wandb.init(mode=options.wandb, **arguments)  # pyright: ignore[reportArgumentType]
        except Exception as error:  # whatever the client raises, training matters more than its curve
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._announce(
                f"Weights & Biases is not reachable ({reason}): this run is recorded offline, see wandb sync"
            )
            run = wandb.init(mode="offline", **arguments)
        self._run_id = run.id
        run.define_metric("agent_steps")
        run.define_metric("*", step_metric="agent_steps")
        return run

    def get_state(self) -> dict[str, Any]:
        return {"run_id": self._run_id}

    def set_state(self, state: dict[str, Any]) -> None:
        self._run_id = state["run_id"]

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def _plain(row: Row) -> dict[str, float | int | None]:
    """Ready for JSON, which has no infinities."""
    return {name: value if value is None or math.isfinite(value) else None for name, value in row.items()}


def _numbers(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value is not None and math.isfinite(value)}


def _nested(config: TrainConfig) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(to_yaml(config))


def _drop_unfinished_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
        print(f"removed an unfinished line at the end of {path}", file=sys.stderr)
