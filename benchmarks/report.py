"""Tables in the pages, from results that were measured: no number in them is typed by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = "python -m benchmarks docs"
END = "<!-- end of table -->"


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


def write_docs(results: Path, docs: Path, readme: Path, shipping: Path) -> None:
    """Those of ``docs/benchmarks.md``, of the README and of ``docs/shipping.md``, from ``results/latest.json``."""
    entries = json.loads(results.read_text())
    lines = ["| what | value | unit | target | met | setting |", "|---|---|---|---|---|---|"]
    for entry in entries:
        met = {True: "yes", False: "**no**", None: ""}[entry["met"]]
        cells = (entry["name"], f"{entry['value']:.4g}", entry["unit"], entry["target"], met, entry["setting"])
        if not _is_of_gpu(entry):
            lines.append(f"| {' | '.join(cells)} |")
    replace_table(docs, COMMAND, lines)
    replace_table(docs, f"{COMMAND} gpu", gpu_lines(entries))
    values = {entry["name"]: entry["value"] for entry in entries}
    headlines = [f"| {what} | {figures.format_map(values)} |" for what, figures in HEADLINES]
    replace_table(readme, COMMAND, ["| two shared CPU cores, medians from `make bench` | |", "|---|---|", *headlines])
    replace_table(shipping, f"{COMMAND} shipping", shipping_lines(entries))


def gpu_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for each setting, whose first words, the device's, are said once."""
    found = [entry for entry in entries if _is_of_gpu(entry)]
    if not found:
        return []
    device = found[0]["setting"]
    lines = [f"{device}:"]
    for setting in dict.fromkeys(entry["setting"] for entry in found):
        words = setting.removeprefix(device).removeprefix("; ") or "the device itself"
        lines += ["", f"| {words} | value | unit |", "|---|---|---|"]
        lines += [
            f"| {entry['name'].removeprefix('gpu/')} | {entry['value']:.4g} | {entry['unit']} |"
            for entry in found
            if entry["setting"] == setting
        ]
    return lines


def _is_of_gpu(entry: Mapping[str, Any]) -> bool:
    return entry["name"].startswith("gpu/")


SHIPPED = (
    ("bytes_per_step", "bytes per step", ",.0f"),
    ("steps_per_second", "steps/s", ",.0f"),
    ("learner_busy", "learner busy", ".0%"),
    ("lag_p50", "lag p50", ".0f"),
    ("lag_p95", "lag p95", ".0f"),
    ("rho_mean", "mean rho", ".3f"),
    ("rho_clipped", "clipped", ".0%"),
)
"""Of each run of the group ``ship``: name, column, format."""


def shipping_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the runs for each setting, and one of the break-evens."""
    lines: list[str] = []
    values = {entry["name"].removeprefix("ship/"): entry["value"] for entry in entries if _is_shipped(entry)}
    of_runs = [entry for entry in entries if _is_shipped(entry) and entry["name"].endswith("_bytes_per_step")]
    for setting in dict.fromkeys(entry["setting"] for entry in of_runs):
        lines += [f"{setting}:", "", "| shipped | actors | " + " | ".join(column for _, column, _ in SHIPPED) + " |"]
        lines.append("|---" * (2 + len(SHIPPED)) + "|")
        for entry in of_runs:
            if entry["setting"] != setting:
                continue
            run = entry["name"].removeprefix("ship/").removesuffix("_bytes_per_step")
            shipped, _, actors = run.removeprefix("cuda_").rpartition("_")
            cells = [
                format(values[f"{run}_{name}"], form)
                if f"{run}_{name}" in values
                else "1"
                if name == "rho_mean"
                else "-"
                for name, _, form in SHIPPED
            ]
            lines.append(f"| {shipped} | {actors} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["| network and observation | gradients are less from `B T` steps on |", "|---|---|"]
    for entry in entries:
        if entry["name"].startswith("ship/break_even_"):
            lines.append(f"| {entry['setting']} | {entry['value']:,.0f} |")
    return lines


def _is_shipped(entry: Mapping[str, Any]) -> bool:
    return entry["name"].startswith("ship/") and not entry["name"].startswith("ship/break_even_")


def replace_table(page: Path, command: str, lines: list[str]) -> None:
    """Between the mark that names the command and the next end of a table; the words around them stay.

    Raises:
        ValueError: if the page has no such mark.
    """
    begin = f"<!-- table: {command} -->"
    before, mark, rest = page.read_text().partition(begin)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{page} has no place for a table: expected a line {begin} and, after it, {END}")
    page.write_text(before + "\n".join([begin, "", *lines, "", END]) + after)
