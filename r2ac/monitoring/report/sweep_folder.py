"""The folder of a sweep stands for the runs inside it that have begun."""

from collections.abc import Sequence
from pathlib import Path

from conf.knobs import ConfigError
from r2ac.monitoring.report.runs import LOG, RunError
from r2ac.sweeps.record import RECORD, read_record


def run_folders(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Folders of runs, and a line about each sweep of which some have not logged anything yet.

    Raises:
        RunError: for a sweep of which none has.
    """
    folders, notes = [], []
    for path in paths:
        if not (path / RECORD).is_file():
            folders.append(path)
            continue
        try:
            inside = [path / job.folder for job in read_record(path)]
        except ConfigError as error:
            raise RunError(str(error)) from None
        begun = [folder for folder in inside if _has_rows(folder / LOG)]
        if not begun:
            raise RunError(
                f"{path} is a sweep of which no run has logged anything yet: wait for the first row of a {LOG}"
            )
        if len(begun) < len(inside):
            notes.append(f"{len(inside) - len(begun)} of {len(inside)} runs of {path} have not logged anything yet")
        folders += begun
    return folders, notes


def _has_rows(log: Path) -> bool:
    """Whether a first line is there as a whole."""
    try:
        with log.open("rb") as file:
            return file.readline().endswith(b"\n")
    except FileNotFoundError:
        return False
