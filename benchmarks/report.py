"""The tables in ``docs/benchmarks.md`` and in the README from ``results/latest.json``: no number in them is typed by hand."""

import json
from pathlib import Path

BEGIN, END = "<!-- table: python -m benchmarks docs -->", "<!-- end of table -->"


HEADLINES = (
    (
        "exact RTRL by the segment identity, against step by step (T=100, N=512)",
        "{core/segment_vs_reference_N512:.0f} times faster",
    ),
    (
        "the same against truncated BPTT, on the core alone",
        "{core/segment_vs_tbptt_N512:.2f} (N=512) and {core/segment_vs_tbptt_N256:.2f} (N=256) times its time",
    ),
    (
        "whole training on Breakout through Ray, RTRL against truncated BPTT",
        "{train/nature_rtrl_vs_tbptt:.2f} (Nature CNN), {train/impala_rtrl_vs_tbptt:.2f} (IMPALA stem) of its speed",
    ),
    (
        "whole training against its parts alone: environment + forward + backward",
        "{train/nature_vs_floor:.2f} (Nature CNN), {train/impala_vs_floor:.2f} (IMPALA stem), "
        "{train/procgen_vs_floor:.2f} (ProcGen) of the floor",
    ),
    (
        "environments against the libraries' own loops",
        "{env/atari_vs_library:.2f} (Atari), {env/procgen_vs_library:.2f} (ProcGen)",
    ),
)
"""Rows of the README: what, and the figures by their names in the results."""


def write_docs(results: Path, docs: Path, readme: Path) -> None:
    """Replaces the tables between their marks; the words around them stay."""
    entries = json.loads(results.read_text())
    lines = ["| what | value | unit | target | met | setting |", "|---|---|---|---|---|---|"]
    for entry in entries:
        met = {True: "yes", False: "**no**", None: ""}[entry["met"]]
        lines.append(
            f"| {entry['name']} | {entry['value']:.4g} | {entry['unit']} | {entry['target']} | {met} | {entry['setting']} |"
        )
    _replace_table(docs, lines)
    values = {entry["name"]: entry["value"] for entry in entries}
    headlines = [f"| {what} | {figures.format_map(values)} |" for what, figures in HEADLINES]
    _replace_table(readme, ["| two shared CPU cores, medians from `make bench` | |", "|---|---|", *headlines])


def _replace_table(page: Path, lines: list[str]) -> None:
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after)
