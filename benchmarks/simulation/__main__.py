"""``python -m benchmarks.simulation``: see the package."""

import math
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import simulation
from benchmarks.learning import RESULTS
from benchmarks.simulation.large import measured_costs
from benchmarks.simulation.page import DATA, keep, publish, read, table
from benchmarks.simulation.scenario import measured

VERBS = ("run", "costs", "publish", "one")
NUMBERS = {"rate": 3.0, "node": 64.0, "seconds": 40.0, "units": 128.0}
WHOLE = ("node", "units")
SIZES = "100,300,1000"


def main(argv: Sequence[str]) -> int:
    options = dict(word.split("=", 1) for word in argv if "=" in word)
    words = [word for word in argv if "=" not in word]
    if unknown := [*(set(words) - set(VERBS)), *(options.keys() - NUMBERS.keys() - {"actors", "added_up"})]:
        return _mistake(f"{unknown[0]}: expected run, costs, publish, actors=N,N and {', '.join(NUMBERS)}")
    try:
        sizes = [int(size) for size in options.get("actors", SIZES).split(",")]
        numbers = {name: float(options.get(name, value)) for name, value in NUMBERS.items()}
    except ValueError as error:
        return _mistake(f"{error}: expected numbers, such as actors={SIZES} rate=3")
    if not all(0 < value < math.inf for value in (*sizes, *numbers.values())):
        return _mistake("expected numbers above zero")
    if not all(numbers[name].is_integer() for name in WHOLE):
        return _mistake(f"{' and '.join(WHOLE)} are whole numbers")
    if "one" in words:
        rate, node, seconds, units = numbers.values()
        for size in sizes:
            found = measured(
                size,
                added_up=options.get("added_up") == "true",
                rate=rate,
                node=int(node),
                seconds=seconds,
                units=int(units),
            )
            keep(found, RESULTS / "data" / DATA)
        return 0
    if "run" in words or not words:
        given = [f"{name}={value:g}" for name, value in numbers.items()]
        for size in sizes:
            for added_up in ("false", "true"):
                # Each in a process of its own, whose memory is that of one run.
                command = [sys.executable, "-m", simulation.__name__, "one", f"actors={size}", f"added_up={added_up}"]
                if subprocess.run([*command, *given], check=False).returncode:
                    return 1
        print("\n".join(table(read(RESULTS / "data" / DATA)[0])))
    if "costs" in words:
        keep(measured_costs(), RESULTS / "data" / DATA)
    if "publish" in words:
        publish(RESULTS)
    return 0


def _mistake(what: str) -> int:
    print(f"error: {what}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
