"""Whether the books of a run add up: what its actors shipped, what was added up on its way, what its learners judged and added, and what
they updated with.

A *job* is one life of the driver. Within it a contribution has one name, and a version of the weights one value; after a driver was
killed, the next begins with what had been saved, and both are counted anew from there.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.chaos.audited import Kind
from benchmarks.chaos.ledger import Entry, read

TOLERANCE = 1e-3
"""Of a sum in single precision, relative to the sizes of what was added."""
MINUTE_S, WINDOW_S = 60, 5
MOST_SAID = 100
"""Of what is wrong; the rest is counted."""
ADDED = ("accepted", "damped")
SUMS = "sums of several that came"
LOST = "lost on the way to a learner"
KEPT = "added and kept"
UNHEARD = "judged and unheard of, most at the death of a learner"
REPEATED_S = "seconds of training done again after the death of a driver, most"
FORGOTTEN_S = "seconds of updates lost with a learner, most"


class Name(NamedTuple):
    """Of a contribution."""

    job: str
    actor: int
    start: int
    sequence: int


@dataclass(slots=True)
class Findings:
    """What an audit has found."""

    wrong: list[str] = field(default_factory=list)
    """In words, each what was promised and is not so."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was counted, in words."""

    def require(self, holds: bool, what: str) -> None:
        self.counts["checks"] += 1
        if holds:
            return
        self.counts["wrong"] += 1
        if self.counts["wrong"] <= MOST_SAID:
            self.wrong.append(what)


def audit(folder: Path) -> Findings:
    """Of the books in a folder."""
    return examine(*(list(read(folder, name)) for name in ("actor", "learner", "aggregator")))


def examine(
    actors: Sequence[list[Entry]], learners: Sequence[list[Entry]], aggregators: Sequence[list[Entry]] = ()
) -> Findings:
    """Of books, in the order in which they were begun."""
    findings = Findings()
    shipped = _shipped(actors, findings)
    values = _values(learners)
    for name, entry in shipped.items():
        findings.require(
            entry["weights"] in values.get((name.job, entry["version"]), set()),
            f"{name} says version {entry['version']}, and was made with weights that no learner had as that version",
        )
    added: Counter[Name] = Counter()
    added_up = {Name(entry["job"], *_key(entry)): entry for book in aggregators for entry in _of(book, "added up")}
    for book in learners:
        _examine_learner(book, shipped, added_up, added, findings)
    for name, times in added.items():
        findings.require(times == 1, f"{name} was added {times} times")
    _examine_succession(learners, findings)
    judged = {Name(_job(book), *_key(entry)) for book in learners for entry in _of(book, "judged")}
    findings.counts["shipped"] = len(shipped)
    findings.counts["added"] = len(added)
    findings.counts[LOST] = len(shipped.keys() - judged)
    findings.counts[KEPT] = _kept(learners)
    return findings


def share_kept(learners: Iterable[Sequence[Entry]], begin: float, end: float) -> float:
    """Steps that were made, over those that would have been, had all of each minute been as its median five seconds: what the machine gives
    to a run from one minute to the next is no matter then.

    Args:
        begin, end: by the clock of the books; at least a minute.
    """
    per_minute = MINUTE_S // WINDOW_S
    steps: Counter[int] = Counter()
    for book in learners:
        for entry in (*_of(book, "added"), *_of(book, "added sum")):
            steps[int((entry["at"] - begin) // WINDOW_S)] += entry["steps"]
    made = would = 0.0
    for minute in range(int((end - begin) // MINUTE_S)):
        windows = [steps[number] for number in range(minute * per_minute, (minute + 1) * per_minute)]
        made += sum(windows)
        would += per_minute * statistics.median(windows)
    return made / would


def _shipped(actors: Iterable[list[Entry]], findings: Findings) -> dict[Name, Entry]:
    shipped: dict[Name, Entry] = {}
    for book in actors:
        for entry in book:
            name = Name(entry["job"], *_key(entry))
            if entry["fault"] == Kind.TWICE:
                findings.counts["ordered: twice"] += 1
                continue
            if entry["fault"] is not None:
                findings.counts[f"ordered: {entry['fault']}"] += 1
            findings.require(name not in shipped, f"{name} names two contributions")
            shipped[name] = entry
    return shipped


def _values(learners: Iterable[list[Entry]]) -> dict[tuple[str, int], set[int]]:
    """Checksums of the weights that each version of a job has been: of several learners, where one took a version with it that nobody
    had heard of."""
    values: dict[tuple[str, int], set[int]] = {}
    for book in learners:
        for entry in book:
            if "weights" in entry:
                values.setdefault((entry["job"], entry["version"]), set()).add(entry["weights"])
    return values


def _examine_learner(
    book: Sequence[Entry],
    shipped: dict[Name, Entry],
    added_up: dict[Name, Entry],
    added: Counter[Name],
    findings: Findings,
) -> None:
    """One life of a learner, from what it began with."""
    total = size = 0.0
    max_lag: int | None = None
    counters: Entry = {}
    of_add: dict[Name, Entry] = {}
    own: dict[int, int] = {}
    for entry in book:
        if "weights" in entry:
            own[entry["version"]] = entry["weights"]
        match entry["event"]:
            case "began":
                total, size, counters, max_lag = entry["sum"], entry["size"], entry["counters"], entry["max_lag"]
            case "continued":
                total, size = entry["sum"], entry["size"]
                findings.require(size == 0, "a learner that took another's place went on with a sum of gradients")
                counters = {**entry["after"], "version": entry["version"]}
                findings.require(
                    entry["version"] == entry["after"]["version"] + 1,
                    f"version {entry['version']} follows {entry['after']['version']} after the death of a learner",
                )
            case "resized":
                max_lag = entry["max_lag"]
            case "added":
                name = Name(_job(book), *_key(entry))
                added[name] += 1
                of_add[name] = entry
                total += entry["weight"] * entry["sum"]
                size += entry["weight"] * entry["size"]
                _examine_added(name, entry, shipped, own, findings)
            case "added sum":
                parts = _examine_sum(entry, _job(book), added_up, findings)
                for name, part in parts.items():
                    added[name] += 1
                    of_add[name] = part
                    _examine_added(name, part, shipped, own, findings)
                total += entry["weight"] * entry["sum"]
                size += entry["weight"] * entry["size"]
            case "updated":
                findings.require(
                    abs(entry["sum"] - total) <= TOLERANCE * size + 1e-12,
                    f"update {entry['version']} of job {entry['job']} is made of {entry['sum']:g}, added were {total:g}",
                )
                total = size = 0.0
            case "judged":
                counters = _examine_judged(entry, _job(book), of_add, max_lag, counters, findings)
            case _:
                pass


def _examine_added(
    name: Name, entry: Entry, shipped: dict[Name, Entry], own: dict[int, int], findings: Findings
) -> None:
    sent = shipped.get(name)
    findings.require(sent is not None, f"{name} was added and never shipped")
    if sent is None:
        return
    for what in ("version", "steps", "gradient"):
        findings.require(
            entry[what] == sent[what],
            f"{name} was shipped with {what} {sent[what]}, added with {entry[what]}",
        )
    findings.require(sent["fault"] != Kind.NOT_FINITE, f"{name}, which is not finite, was added")
    findings.require(
        own.get(entry["version"]) == sent["weights"],
        f"{name} was credited to version {entry['version']}, and made with other weights than this learner's",
    )


def _examine_sum(entry: Entry, job: str, added_up: dict[Name, Entry], findings: Findings) -> dict[Name, Entry]:
    """What a sum says that is in it, with what its aggregator wrote down of each."""
    parts: dict[Name, Entry] = {}
    total = size = 0.0
    for part in entry["of"]:
        name = Name(job, *_key(part))
        up = added_up.get(name)
        findings.require(up is not None, f"{name} came in a sum, and nobody had added it up")
        if up is not None:
            parts[name] = {**part, "gradient": up["gradient"]}
            total += up["weight"] * up["sum"]
            size += up["weight"] * up["size"]
    findings.require(
        abs(entry["sum"] - total) <= TOLERANCE * size + 1e-12,
        f"a sum of {len(entry['of'])} contributions is {entry['sum']:g}, added up were {total:g}",
    )
    findings.counts[SUMS] += 1
    return parts


def _examine_judged(
    entry: Entry, job: str, of_add: dict[Name, Entry], max_lag: int | None, before: Entry, findings: Findings
) -> Entry:
    name, verdict, after = Name(job, *_key(entry)), entry["verdict"], entry["counters"]
    findings.counts[verdict] += 1
    findings.require((verdict in ADDED) == (name in of_add), f"{name} is called {verdict}")
    if verdict == "accepted":
        # What is added up is judged twice: where it is, and its sum at the learner.
        most = None if max_lag is None else max_lag * (2 if entry["in_sum"] else 1)
        findings.require(most is None or entry["lag"] <= most, f"{name} was added {entry['lag']} versions late")
    expected = {verdict: before.get(verdict, 0) + 1}
    expected["agent_steps"] = before.get("agent_steps", 0) + (of_add.pop(name)["steps"] if name in of_add else 0)
    for counter, value in expected.items():
        findings.require(after[counter] == value, f"{counter} is {after[counter]} after {name}, {value} would be right")
    return after


def _examine_succession(learners: Sequence[list[Entry]], findings: Findings) -> None:
    """Each learner begins with what one before had handed out to be saved, and goes on counting where the driver had heard of."""
    saved: dict[tuple[int, int], float] = {}
    """When."""
    last_at = 0.0
    jobs: set[str] = set()
    heard: dict[str, list[Entry]] = {}
    """Of each job, all counters that its driver may have heard of, and since a learner took another's place those of that one only."""
    for number, book in enumerate(learners):
        for entry in book:
            match entry["event"]:
                case "began":
                    begun = (entry["version"], entry["weights"])
                    new = number == 0 or entry["version"] == 0
                    findings.require(
                        new or begun in saved, f"a learner began with version {begun[0]}, which was never saved"
                    )
                    lost_s = math.ceil(last_at - saved.get(begun, last_at))
                    of_a_driver = _job(book) not in jobs
                    what = REPEATED_S if of_a_driver else FORGOTTEN_S
                    findings.counts[what] = max(findings.counts[what], lost_s)
                    jobs.add(_job(book))
                    heard.setdefault(_job(book), [entry["counters"]])
                case "continued":
                    _examine_continued(entry, heard.get(_job(book), []), findings)
                    heard[_job(book)] = [{**entry["after"], "version": entry["version"]}]
                case "saved":
                    saved[entry["version"], entry["weights"]] = entry["at"]
                case "judged":
                    heard[_job(book)].append(entry["counters"])
                case _:
                    pass
        last_at = max(last_at, book[-1]["at"])


def _examine_continued(entry: Entry, known: Sequence[Entry], findings: Findings) -> None:
    told = _less_version(entry["after"])
    places = [place for place, counters in enumerate(known) if _less_version(counters) == told]
    findings.require(bool(places), f"version {entry['version']} goes on from counters that never were")
    if places:
        last = known[places[-1]]
        findings.require(
            entry["version"] > last["version"], f"version {entry['version']} comes after {last['version']}"
        )
        findings.counts[UNHEARD] = max(findings.counts[UNHEARD], len(known) - 1 - places[-1])


def _less_version(counters: Entry) -> Entry:
    return {name: value for name, value in counters.items() if name != "version"}


def _kept(learners: Sequence[list[Entry]]) -> int:
    """Contributions that the last counters count."""
    last: Entry = {}
    for book in learners:
        for entry in book:
            last = entry.get("after") or entry.get("counters") or last
    return sum(last.get(verdict, 0) for verdict in ADDED)


def _of(book: Iterable[Entry], event: str) -> Iterable[Entry]:
    return (entry for entry in book if entry["event"] == event)


def _job(book: Sequence[Entry]) -> str:
    return next(entry["job"] for entry in book if "job" in entry)


def _key(entry: Entry) -> tuple[int, int, int]:
    return entry["actor"], entry["start"], entry["sequence"]
