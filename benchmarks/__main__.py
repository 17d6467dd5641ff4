"""``python -m benchmarks [core|train|env|memory|all] [seconds=S]``: measures, prints a table, writes ``results/latest.json``."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measurement import Result

GROUPS = ("core", "train", "env", "memory")
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main(arguments: list[str]) -> int:
    seconds = 20.0
    chosen: list[str] = []
    for word in arguments:
        if word.startswith("seconds="):
            seconds = float(word.partition("=")[2])
        elif word in (*GROUPS, "all"):
            chosen += GROUPS if word == "all" else [word]
        else:
            print(f"error: unknown benchmark {word!r}: expected {', '.join(GROUPS)}, all or seconds=S", file=sys.stderr)
            return 2
    console = Console()
    for group in dict.fromkeys(chosen or GROUPS):
        console.print(f"[dim]measuring {group} ...[/dim]")
        results = importlib.import_module(f"benchmarks.{group}").run(seconds)
        _store(group, results)
        console.print(_table(group, results))
    console.print(f"written to {RESULTS}")
    return 0


def _store(group: str, results: list[Result]) -> None:
    """Replaces the group's entries, keeps the others'."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    kept = [entry for entry in kept if not entry["name"].startswith(f"{group}/")]
    RESULTS.write_text(json.dumps(kept + [asdict(result) for result in results], indent=1) + "\n")


def _table(group: str, results: list[Result]) -> Table:
    table = Table("what", "value", "unit", "target", "met", "setting", title=group)
    for result in results:
        met = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}[result.met]
        table.add_row(
            result.name.partition("/")[2], f"{result.value:.4g}", result.unit, result.target, met, result.setting
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
