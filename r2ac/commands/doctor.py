"""``rtrl-doctor``: what is installed and working on this machine, one line each, and what to do about what is not."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from r2ac.commands.doctor_checks import examine, suite_options

MARKS = {"ok": "[green]✓[/green]", "missing": "[yellow]–[/yellow]", "broken": "[red]✗[/red]"}
ASCII_MARKS = {"ok": "ok     ", "missing": "missing", "broken": "broken "}
USAGE = """usage: rtrl-doctor [--json] [env=SUITE/NAME] [env.OPTION=VALUE ...]

  --json                    all findings as one document
  env=SUITE/NAME            try this environment, also one of your own, instead of every suite; env.OPTION=VALUE as in training
{options}

A tick works; a dash is not there, and not needed unless you want it; a cross is broken: the exit status is 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if anything is broken; what is merely missing is optional."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(usage())
        return 0
    words = [word for word in arguments if word != "--json"]
    unknown = _first_unknown(words)
    if unknown is not None:
        known = [f"{option}={meaning.split()[0]}" for option, meaning in suite_options().items()]
        print(
            f"error: unknown option {unknown!r}: expected --json, env=SUITE/NAME, {', '.join(known)} or nothing",
            file=sys.stderr,
        )
        return 2
    try:
        return run("--json" in arguments, words)
    except KeyboardInterrupt:  # not ``reported``, which needs what may be broken
        return 130


def usage() -> str:
    rows = [
        (f"{option}={meaning.split()[0]}", meaning.partition("  ")[2]) for option, meaning in suite_options().items()
    ]
    return USAGE.format(options="\n".join(f"  {option:25} {meaning}" for option, meaning in rows))


def _first_unknown(words: Sequence[str]) -> str | None:
    """Options of an environment that is named are checked where it is made: its suite may be anybody's."""
    named = any(word.startswith("env=") for word in words)
    known = ("env=", *(["env."] if named else [f"{option}=" for option in suite_options()]))
    return next((word for word in words if not word.startswith(known)), None)


def run(as_json: bool, words: Sequence[str]) -> int:
    console = Console(highlight=False, soft_wrap=True)
    marks = ASCII_MARKS if console.options.ascii_only else MARKS
    findings = []
    for finding in examine(words):
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
