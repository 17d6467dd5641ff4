"""``rtrl-doctor``: what is installed and working on this machine, one line each, and what to do about what is not."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from learner.doctor import examine

MARKS = {"ok": "[green]ok     [/green]", "missing": "[yellow]missing[/yellow]", "broken": "[red]broken [/red]"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if anything is broken; what is merely missing is optional."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print("usage: rtrl-doctor [--json]")
        return 0
    if unknown := [word for word in arguments if word != "--json"]:
        print(f"error: unknown option {unknown[0]!r}: expected --json or nothing", file=sys.stderr)
        return 2
    console = Console(highlight=False, soft_wrap=True)
    findings = []
    for finding in examine():
        findings.append(finding)
        if "--json" not in arguments:
            console.print(f"{MARKS[finding.status]}  {finding.name:14} {finding.detail}")
            if finding.advice:
                console.print(f"[dim]                         {finding.advice}[/dim]")
    if "--json" in arguments:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    return int(any(finding.status == "broken" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
