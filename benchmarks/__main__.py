"""``python -m benchmarks [GROUP ...] [all|docs] [seconds=S]``: measures, prints tables, writes ``results/latest.json``.

Groups are core, dense, train, pipeline, ship, refresh, env, memory, startup, and, only if they are named, gpu and peers.

``docs`` measures nothing and writes the tables of docs/benchmarks.md, docs/shipping.md and the README from the last results.
"""

import importlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measurement import NotMeasured, Result
from benchmarks.report import write_docs

GROUPS = ("core", "dense", "train", "pipeline", "ship", "refresh", "env", "memory", "startup")
NAMED = ("gpu", "peers")
"""Measured only if they are named: one needs a machine of another kind, the other an hour and a network."""
SECONDS = 14.0
"""Of a measurement, in groups that do not say otherwise."""
RESULTS = Path(__file__).parent / "results" / "latest.json"
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
SHIPPING = DOCS.with_name("shipping.md")
README = Path(__file__).parents[1] / "README.md"


def main(arguments: list[str]) -> int:
    seconds: float | None = None
    chosen: list[str] = []
    for word in arguments:
        if word.startswith("seconds="):
            seconds = _seconds(word)
            if seconds is None:
                print(f"error: {word}: expected seconds of a measurement, as seconds=14", file=sys.stderr)
                return 2
        elif word in (*GROUPS, *NAMED, "all"):
            chosen += GROUPS if word == "all" else [word]
        elif word == "docs":
            write_docs(RESULTS, DOCS, README, SHIPPING)
            return 0
        else:
            print(
                f"error: unknown benchmark {word!r}: expected {', '.join((*GROUPS, *NAMED))}, all or seconds=S",
                file=sys.stderr,
            )
            return 2
    console = Console(width=max(100, Console().width))
    for group in dict.fromkeys(chosen or GROUPS):
        console.print(f"[dim]measuring {group} ...[/dim]")
        results: list[Result] = []
        module = importlib.import_module(f"benchmarks.{group}")
        try:
            for result in module.run(seconds or getattr(module, "SECONDS", SECONDS)):
                results.append(result)
                _note(result)
        except NotMeasured as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        _store(group, results)
        for table in _tables(group, results):
            console.print(table)
    console.print(f"written to {RESULTS}")
    return 0


def _seconds(word: str) -> float | None:
    try:
        seconds = float(word.partition("=")[2])
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _note(result: Result) -> None:
    """One by one, so that of a group that takes minutes and is stopped there is what it had found."""
    _write([result], lambda name: name == result.name)


def _store(group: str, results: list[Result]) -> None:
    """Replaces the group's entries, keeps the others'."""
    _write(results, lambda name: name.startswith(f"{group}/"))


def _write(results: list[Result], replaced: Callable[[str], bool]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    kept = [entry for entry in kept if not replaced(entry["name"])]
    RESULTS.write_text(json.dumps(kept + [asdict(result) for result in results], indent=1) + "\n")


def _tables(group: str, results: list[Result]) -> list[Table]:
    """One table per setting, so that the setting is said once."""
    tables = []
    for setting in dict.fromkeys(result.setting for result in results):
        table = Table(
            "what", "value", "unit", "target", "met", title=f"{group}: {setting}", title_justify="left", min_width=90
        )
        for result in results:
            if result.setting == setting:
                met = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}[result.met]
                table.add_row(result.name.partition("/")[2], f"{result.value:.4g}", result.unit, result.target, met)
        tables.append(table)
    return tables


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
