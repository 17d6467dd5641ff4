"""``python -m benchmarks.chaos [run] [publish] [minutes=60] [seed=1] [folder=PATH] [words of rtrl-train ...]``: see the package.

``run`` makes a campaign, prints what it found, and ends with status 1 if a promise was broken. ``publish`` puts what the last campaigns in
``folder`` found into docs/results.

minutes=M     of a campaign (60)
seed=N        of what is done when (1)
folder=PATH   where campaigns leave their books, one folder each (runs/chaos)
"""

import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.audit import KEPT, LOST
from benchmarks.chaos.campaign import Report, run
from benchmarks.chaos.page import publish, read_reports
from benchmarks.chaos.scene import with_a_task
from benchmarks.learning import RESULTS
from conf.load import load_train
from r2ac.commands.user_mistakes import reported
from r2ac.training.parts import require_all_parts

VERBS = ("run", "publish")
OPTIONS = ("minutes", "seed", "folder")
MOST_SAID = 20


def main(argv: Sequence[str]) -> int:
    options = {name: value for name, _, value in (word.partition("=") for word in argv) if name in OPTIONS}
    verbs = [word for word in argv if word in VERBS] or ["run"]
    words = [word for word in argv if word not in VERBS and word.partition("=")[0] not in OPTIONS]
    if wrong := [word for word in words if "=" not in word]:
        print(
            f"error: {wrong[0]}: expected run, publish, minutes=M, seed=N, folder=PATH or options of rtrl-train",
            file=sys.stderr,
        )
        return 2
    try:
        minutes, seed = float(options.get("minutes", "60")), int(options.get("seed", "1"))
    except ValueError as error:
        print(f"error: {error}: expected minutes=60 and seed=1", file=sys.stderr)
        return 2
    if not 1 <= minutes < math.inf:
        print(f"error: minutes={minutes:g}: expected one or more, and an end", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was set up is taken down
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a script
    folder = Path(options.get("folder", "runs/chaos"))
    failed = False
    if "run" in verbs:
        if status := reported(lambda: 0 if require_all_parts(load_train(list(with_a_task(words)))) else 1):
            return status
        try:
            report = run((folder / time.strftime("%Y%m%d-%H%M%S")).resolve(), minutes, seed, words)
        except KeyboardInterrupt:
            print("stopped: nothing is concluded from a part of a campaign", file=sys.stderr)
            return 130
        failed = tell(report)
    if "publish" in verbs:
        publish([read for path in sorted(folder.glob("*/report.json")) for read in read_reports(path)], RESULTS)
    return int(failed)


def tell(report: Report) -> bool:
    """Prints what a campaign found; whether a promise was broken."""
    for name, count in sorted(report.faults.items()):
        print(f"{count:5}  {name}")
    for name, reason in sorted(report.not_here.items()):
        print(f"       {name}: not here, because {reason}")
    counts = report.counts
    print(f"{report.total:5}  faults in {report.minutes:g} minutes")
    print(
        f"{counts.get('shipped', 0):,} contributions shipped, {counts.get(KEPT, 0):,} kept, {counts.get(LOST, 0):,} lost on their way"
    )
    for said in report.wrong[:MOST_SAID]:
        print(f"BROKEN: {said}")
    if len(report.wrong) > MOST_SAID:
        print(f"... and {len(report.wrong) - MOST_SAID} more, in report.json")
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
