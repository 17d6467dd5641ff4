"""TensorBoard's event files."""

from pathlib import Path
from typing import Any

from learner.metrics import METRICS, split_name
from learner.sinks.continuation import Continuation
from learner.sinks.sink import Row, numbers


class TensorBoardSink:
    """Scalars in groups, x axis = agent steps. Opened at the first row: a run that never starts leaves no empty curve."""

    def __init__(self, folder: Path, continuation: Continuation) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard shows nothing that earlier files of the folder have from this step on.
        self._writer: Any = SummaryWriter(str(folder), purge_step=continuation.agent_steps + 1)

    def write(self, row: Row) -> None:
        for name, value in numbers(row).items():
            self._writer.add_scalar(f"{METRICS[split_name(name)[0]].group}/{name}", value, int(row["agent_steps"] or 0))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
