"""What the stand-in is told to do: ``FAKE_LAB`` in the environment, a JSON object.

steps        [shortest, longest] episode in steps of 4 frames; the longest is the time limit       default [12, 24]
seconds      time limits by level in place of the longest; such an episode never ends early        default {}
begin_left   frames that are left of a time limit in ``seconds`` when an episode begins            default all
step_s       seconds of work (CPU time) per step, holding the interpreter's lock as the engine does           default 0
reset_s      seconds that a reset sleeps                                                           default 0
compile_s    seconds that building a map sleeps, on levels that have maps of text                  default 0
dataset      "broken": the pictures of the levels that need some cannot be read
faults       folder; a file ``exit-step``, ``hang-step``, ``map-reset``, ``raise-reset``, ... there happens once, to whoever
             takes it; who takes ``wait-reset`` goes on once there is a file ``go``
"""

import json
import os
import sys
import time
from typing import Any, NoReturn


def behaviour() -> dict[str, Any]:
    return json.loads(os.environ.get("FAKE_LAB", "{}"))


def take_fault(folder: str | None, moment: str) -> None:
    """Does what a file in the faults folder says; taking the file away first makes it happen to one engine only."""
    if folder is None:
        return
    for fault in os.listdir(folder):
        what, _, when = fault.partition("-")
        if when.split(".")[0] != moment:
            continue
        try:
            os.unlink(os.path.join(folder, fault))
        except FileNotFoundError:
            continue
        if what == "exit":
            print("the stand-in was told to end", file=sys.stderr, flush=True)
            os._exit(3)
        if what == "map":
            map_not_found("maze_0815")
        if what == "wait":
            while not os.path.exists(os.path.join(folder, "go")):
                time.sleep(0.01)
            return
        if what == "hang":
            until = time.monotonic() + 3600
            while time.monotonic() < until:  # holding the lock
                pass
        raise RuntimeError("the stand-in was told to fail")


def map_not_found(name: str) -> NoReturn:
    """Two lines, as C's ``perror`` prints a message that ends in one."""
    print(f"Didn't find map '{name}'\n: No such file or directory", file=sys.stderr, flush=True)
    os._exit(1)
