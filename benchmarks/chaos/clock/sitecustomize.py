"""Python's clock, wrong by as many seconds as a file says: in the path of every process of a campaign (``CHAOS_CLOCK``)."""

import mmap
import os
import struct
import time
from pathlib import Path

_path = Path(os.environ.get("CHAOS_CLOCK", ""))
if _path.is_file() and _path.stat().st_size == struct.calcsize("d"):
    with _path.open("rb") as _file:
        _memory = mmap.mmap(_file.fileno(), 0, access=mmap.ACCESS_READ)
    _time, _time_ns = time.time, time.time_ns

    def _ahead() -> float:
        (seconds,) = struct.unpack("d", _memory)
        return seconds

    time.time = lambda: _time() + _ahead()
    time.time_ns = lambda: _time_ns() + int(_ahead() * 1e9)
