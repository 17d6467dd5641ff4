"""A run of Weights & Biases."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.data_yaml import read_yaml
from conf.load import to_yaml
from conf.schema import TrainConfig
from r2ac.monitoring.metrics import Row
from r2ac.monitoring.sinks.continuation import Continuation
from r2ac.monitoring.sinks.isolated import reason
from r2ac.monitoring.sinks.sink import numbers


def new_run_id() -> str:
    """Chosen here, not by the client, so that a checkpoint knows it before a server has answered."""
    return secrets.token_hex(4)


class WandbSink:
    """Weights & Biases, online or offline. A server that does not answer in time costs the upload, not the run.

    A row's step is its agent step, so that a resumed run, whose second part offline is a folder of its own, goes on in the same place;
    rows that its first part has already are left out.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        run_id: str,
        continuation: Continuation,
        announce: Callable[[str], None],
    ) -> None:
        import wandb

        self._last_logged = continuation.last_logged
        options = config.logging
        arguments: dict[str, Any] = {
            "project": options.wandb_project,
            "entity": options.wandb_entity,
            "name": config.name,
            "id": run_id,
            "resume": "allow" if options.wandb == "online" else None,
            "dir": str(run_dir),
            "config": _nested(config),
            "settings": wandb.Settings(init_timeout=options.wandb_init_timeout_s, console="off", silent=True),
        }
        self._run: Any = self._init(options.wandb, arguments, announce)
        self._run.define_metric("agent_steps")
        self._run.define_metric("*", step_metric="agent_steps")

    def _init(self, mode: str, arguments: dict[str, Any], announce: Callable[[str], None]) -> Any:
        import wandb

        try:
            return wandb.init(mode=mode, **arguments)  # pyright: ignore[reportArgumentType]
        except Exception as error:  # whatever the client raises, training matters more than its curve
            if mode == "offline":
                raise
            announce(
                f"Weights & Biases is not reachable ({reason(error)}): this run is recorded offline, see wandb sync"
            )
            return wandb.init(mode="offline", **arguments | {"resume": None})

    def write(self, row: Row) -> None:
        steps = int(row["agent_steps"] or 0)
        if steps > self._last_logged:
            self._run.log(numbers(row), step=steps, commit=True)
            self._last_logged = steps

    def close(self) -> None:
        self._run.finish()


def _nested(config: TrainConfig) -> dict[str, Any]:
    return read_yaml(to_yaml(config), "the configuration")
