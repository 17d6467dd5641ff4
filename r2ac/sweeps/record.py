"""Which jobs a sweep has, and in which folders: kept in ``sweep.json``, so that the same command finds its runs again."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from conf.combinations import Combination
from conf.knobs import ConfigError
from r2ac.persistence.writing import replace_file

RECORD = "sweep.json"
LONGEST = 120
"""Bytes of the name of a job's folder or run: a longer one is cut, and ends in a hash of the words."""


@dataclass(frozen=True, slots=True)
class SweepJob:
    """One run of a sweep."""

    folder: str
    """Inside the sweep's; says what was swept."""
    name: str
    """Of the run: the same for all seeds, which therefore share a curve in a report."""
    words: tuple[str, ...]
    """Of the training, as typed."""


def jobs_of(sweep_name: str, found: Sequence[Combination], recorded: Sequence[SweepJob]) -> list[SweepJob]:
    """What is recorded, then what is new. A folder once given stays, whatever is swept later.

    Raises:
        ConfigError: if a recorded job is not among what was found: the words are those of another sweep.
    """
    jobs = list(recorded)
    missing = {frozenset(job.words): job for job in recorded}
    known = set(missing)
    folders = {job.folder for job in recorded}
    names = {_without_seed(job.words): job.name for job in recorded}
    for combination in found:
        words = frozenset(combination.words)
        missing.pop(words, None)
        if words in known:
            continue
        folder = _unused(_label(combination.swept) or "run", combination.words, folders)
        folders.add(folder)
        shared = _without_seed(combination.words)
        if shared not in names:
            label = _label([(key, value) for key, value in combination.swept if key != "seed"])
            names[shared] = _unused(f"{sweep_name} {label}".strip(), sorted(shared), set(names.values()))
        jobs.append(SweepJob(folder, names[shared], combination.words))
    if missing:
        lost = next(iter(missing.values()))
        raise ConfigError(
            f"sweep_name={sweep_name} is of other words, {' '.join(lost.words)} in {lost.folder}: only combinations can be added; "
            "repeat its words, or choose another sweep_name"
        )
    return jobs


def read_record(folder: Path) -> list[SweepJob]:
    """The jobs of the sweep in a folder; none if there is no sweep yet.

    Raises:
        ConfigError: if the file is not one of ours.
    """
    path = folder / RECORD
    if not path.is_file():
        return []
    try:
        jobs = [
            SweepJob(str(job["folder"]), str(job["name"]), tuple(map(str, job["words"])))
            for job in json.loads(path.read_text(encoding="utf-8"))["jobs"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{path} is not the record of a sweep: restore it, or choose another sweep_name") from None
    if any(job.folder != Path(job.folder).name or job.folder in ("", "..") for job in jobs):
        raise ConfigError(f"{path} names folders that are not inside it: it is not the record of a sweep")
    return jobs


def write_record(folder: Path, sweep_name: str, jobs: Sequence[SweepJob]) -> None:
    """Before anything starts: what runs is always on record."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"sweep": sweep_name, "jobs": [asdict(job) for job in jobs]}, indent=1, ensure_ascii=False)
    replace_file(folder / RECORD, text + "\n")


def _without_seed(words: Sequence[str]) -> frozenset[str]:
    return frozenset(word for word in words if not word.startswith("seed="))


def _unused(name: str, words: Sequence[str], taken: set[str]) -> str:
    """The name, or one with a hash of the words where it is too long or another's: two values may have the same plain letters."""
    if name not in taken and len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256("\0".join(sorted(words)).encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def _label(swept: Sequence[tuple[str, str]]) -> str:
    """``env=atari_pong,rule=tbptt``: fit for a folder and for the name of a run."""
    return ",".join(f"{_plain(key)}={_plain(value)}" for key, value in swept)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).strip("_+") or "_"
