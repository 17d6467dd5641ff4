"""``python -m benchmarks.peers``: see the package."""

import math
import sys
from collections.abc import Sequence

from benchmarks import peers
from benchmarks.learning import RESULTS
from benchmarks.measurement import NotMeasured
from benchmarks.peers.compare import PEERS
from benchmarks.peers.page import publish
from benchmarks.peers.store import DATA, Runs

VERBS = ("run", "publish")


def main(argv: Sequence[str]) -> int:
    options = dict(word.split("=", 1) for word in argv if "=" in word)
    words = [word for word in argv if "=" not in word]
    known = {peer.key: peer for peer in PEERS}
    if unknown := [*(set(words) - set(VERBS) - set(known)), *(set(options) - {"seeds", "minutes"})]:
        print(f"error: {unknown[0]}: expected {', '.join((*VERBS, *known))}, seeds=1,2,3 or minutes=M", file=sys.stderr)
        return 2
    try:
        seeds = [int(seed) for seed in options.get("seeds", "1").split(",")]
        seconds = 60 * float(options["minutes"]) if "minutes" in options else peers.SECONDS
    except ValueError as error:
        print(f"error: {error}: expected seeds=1,2,3 and minutes=10", file=sys.stderr)
        return 2
    if not 0 < seconds < math.inf:
        print(f"error: minutes={options['minutes']}: expected more than none, and an end", file=sys.stderr)
        return 2
    verbs = [verb for verb in VERBS if verb in words] or ["run"]
    failed = False
    if "run" in verbs:
        chosen = [known[word] for word in words if word in known] or list(PEERS)
        try:
            for run in peers.in_turns(chosen, seeds, seconds):
                rates = f"{run.rate(run.wall):,.0f} steps/s, {run.rate(run.cpu):,.0f} steps per CPU s"
                print(f"{run.peer}, seed {run.seed}: return {run.final}, {rates}", flush=True)
        except NotMeasured:  # each has been said
            failed = True
    if "publish" in verbs:
        publish(Runs(peers.RESULTS / DATA), RESULTS)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
