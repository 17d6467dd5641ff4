"""TensorBoard's event files."""

import os
import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from r2ac.monitoring.metrics import METRICS, Row, split_name
from r2ac.monitoring.sinks.appended_file import AppendedFile
from r2ac.monitoring.sinks.continuation import Continuation
from r2ac.monitoring.sinks.sink import numbers


class TensorBoardSink:
    """Scalars in groups, x axis = agent steps. Opened at the first row: a run that never starts leaves no empty curve.

    Written here and not by the usual writer, whose thread of its own neither survives a full disk nor says so in a line.
    """

    def __init__(self, folder: Path, continuation: Continuation) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = AppendedFile(folder / name)
        # Of earlier files in the folder, TensorBoard shows nothing from this step on.
        start = SessionLog(status=SessionLog.SessionStatus.START)
        self._before = [
            _record(file_version="brain.Event:2"),
            _record(step=continuation.first_untrue, session_log=start),
        ]

    def write(self, row: Row) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        values = [
            Summary.Value(tag=f"{METRICS[split_name(name)[0]].group}/{name}", simple_value=value)
            for name, value in numbers(row).items()
        ]
        record = _record(step=int(row["agent_steps"] or 0), summary=Summary(value=values))
        before, self._before = b"".join(self._before), []
        self._file.append(before + record)

    def close(self) -> None:
        self._file.close()


def _record(**content: Any) -> bytes:
    """One event as it stands in a file."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = BytesIO()
    RecordWriter(buffer).write(Event(wall_time=time.time(), **content).SerializeToString())
    return buffer.getvalue()
