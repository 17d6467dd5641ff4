"""``rtrl-report``: one page with plots about any number of runs, finished or still going."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from r2ac.commands.error_line import print_error
from r2ac.monitoring.report.runs import RunError, group_runs, read_run
from r2ac.monitoring.report.sweep_folder import run_folders


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 written, 2 no such run or nothing to write to."""
    parser = argparse.ArgumentParser(prog="rtrl-report", description="One page with plots about any number of runs.")
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folder, or a sweep's; seeds of one experiment share a curve",
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="page; the plots lie beside it as PNG")
    arguments = parser.parse_args(argv)
    try:
        folders, notes = run_folders(arguments.runs)
        written = write_report(folders, arguments.output)
    except RunError as error:
        print_error(error)
        return 2
    except OSError as error:
        print_error(f"cannot write the report: {error}; choose another --output")
        return 2
    for line in notes:
        print(line)
    print(f"{arguments.output} and {written} PNG files beside it")
    return 0


def write_report(paths: Sequence[Path], output: Path) -> int:
    """Writes the page and its PNG files, ``STEM-PLOT.png``; returns how many of these.

    Raises:
        RunError: for the first folder that holds no run.
        OSError: if the page cannot be written.
    """
    groups = group_runs([read_run(path) for path in dict.fromkeys(paths)])
    # Matplotlib takes a second to import: a mistyped path should not wait for it.
    from r2ac.monitoring.report.page import render
    from r2ac.monitoring.report.plots import draw_all

    drawings = draw_all(groups)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render(groups, drawings), encoding="utf-8")
    for drawing in drawings:
        (output.parent / f"{output.stem}-{drawing.plot.slug}.png").write_bytes(drawing.png)
    return len(drawings)


if __name__ == "__main__":
    sys.exit(main())
