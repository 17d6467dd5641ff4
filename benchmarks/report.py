"""The table in ``docs/benchmarks.md`` from ``results/latest.json``: no number in it is typed by hand."""

import json
from pathlib import Path

BEGIN, END = "<!-- table: python -m benchmarks docs -->", "<!-- end of table -->"


def write_docs(results: Path, docs: Path) -> None:
    """Replaces the table between the two marks; the words around it stay."""
    lines = ["| what | value | unit | target | met | setting |", "|---|---|---|---|---|---|"]
    for entry in json.loads(results.read_text()):
        met = {True: "yes", False: "**no**", None: ""}[entry["met"]]
        lines.append(
            f"| {entry['name']} | {entry['value']:.4g} | {entry['unit']} | {entry['target']} | {met} | {entry['setting']} |"
        )
    before, _, rest = docs.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    docs.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after)
