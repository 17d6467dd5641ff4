"""``rtrl-doctor``: what is installed and working on this machine, one line each, and what to do about what is not."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from r2ac.commands.doctor_checks import examine

MARKS = {"ok": "[green]✓[/green]", "missing": "[yellow]–[/yellow]", "broken": "[red]✗[/red]"}
ASCII_MARKS = {"ok": "ok     ", "missing": "missing", "broken": "broken "}
USAGE = """usage: rtrl-doctor [--json] [env.dataset_path=FOLDER]

  --json                    all findings as one document
  env.dataset_path=FOLDER   also try the pictures that two of DMLab's levels show

A tick works; a dash is not there, and not needed unless you want it; a cross is broken: the exit status is 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if anything is broken; what is merely missing is optional."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    as_json, dataset_path = False, None
    for word in arguments:
        if word == "--json":
            as_json = True
        elif word.startswith("env.dataset_path="):
            dataset_path = word.partition("=")[2]
        else:
            print(
                f"error: unknown option {word!r}: expected --json, env.dataset_path=FOLDER or nothing", file=sys.stderr
            )
            return 2
    try:
        return run(as_json, dataset_path)
    except KeyboardInterrupt:  # not ``reported``, which needs what may be broken
        return 130


def run(as_json: bool, dataset_path: str | None) -> int:
    console = Console(highlight=False, soft_wrap=True)
    marks = ASCII_MARKS if console.options.ascii_only else MARKS
    findings = []
    for finding in examine(dataset_path):
        findings.append(finding)
        if not as_json:
            console.print(f"{marks[finding.status]} {finding.name:20}", end="")
            console.print(finding.detail, markup=False)
            if finding.advice:
                console.print(f"    {finding.advice}", markup=False, style="dim")
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    return int(any(finding.status == "broken" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
