"""Successive halving (Jamieson & Talwalkar 2016): all combinations train for a few minutes, the better half for twice as long, and so on.

A combination is what differs in more than its seed; its score is the mean over its seeds. What was decided is on record, so that the same
command goes on: the runs that went on have other scores now.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from conf.knobs import ConfigError
from r2ac.persistence.writing import replace_file
from r2ac.sweeps.local import LocalJob

RECORD = "halving.json"


@dataclass(frozen=True, slots=True)
class Rung:
    """A comparison that was made."""

    minutes: float
    """Of training, after which it was."""
    scores: dict[str, float | None]
    """Of each combination, by its name, the best first; ``None`` where a run has none."""
    kept: list[str]
    """Those that went on."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A combination: the same run for each of its seeds."""

    name: str
    words: tuple[str, ...]
    """Without the seed."""
    jobs: tuple[LocalJob, ...]

    def score(self, metric: str) -> float | None:
        found = [job.newest(metric) for job in self.jobs]
        known = [value for value in found if value is not None and math.isfinite(value)]
        return mean(known) if len(known) == len(found) else None


class Halving:
    """
    Args:
        minutes: of training until the first comparison.
        keep: share of the combinations that goes on after each, for ``1 / keep`` times as long.
        metric: a column of ``metrics.jsonl``; more is better.
        train: trains jobs until each has so many minutes, as far as it can; returns whether nobody has asked it to stop.

    Raises:
        ConfigError: if what is on record is of another comparison.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        folder: Path,
        *,
        minutes: float,
        keep: float,
        metric: str,
        train: Callable[[Sequence[LocalJob], float], bool],
        say: Callable[[str], None],
    ) -> None:
        self._contenders = {each.name: each for each in contenders}
        self._path = folder / RECORD
        self._asked: dict[str, Any] = {"minutes": minutes, "keep": keep, "metric": metric}
        self._minutes, self._keep, self._metric = minutes, keep, metric
        self._train, self._say = train, say
        self.rungs = self._recorded()

    def run(self) -> bool:
        """Until one combination is left, which then is ``rungs[-1].kept``. Returns whether it came so far.

        Raises:
            ConfigError: if there is nothing to compare.
        """
        left, minutes = list(self._contenders), self._minutes
        for rung in self.rungs:
            left, minutes = rung.kept, minutes / self._keep
        while not self.rungs or len(left) > 1:
            of_rung = [self._contenders[name] for name in left]
            if not self._train([job for each in of_rung for job in each.jobs], minutes):
                return False
            left = self._compare(of_rung, minutes)
            minutes /= self._keep
        best = self._contenders[left[0]]
        self._say(f"best: {' '.join(best.words)}")
        return True

    def _compare(self, contenders: Sequence[Contender], minutes: float) -> list[str]:
        scores = {each.name: each.score(self._metric) for each in contenders}
        if all(score is None for score in scores.values()):
            raise ConfigError(
                f"no combination has a {self._metric} after {minutes:g} minutes of training, so nothing is decided: give them more "
                "(halving_minutes) where no game has ended yet, and look at the logs where jobs failed"
            )
        order = sorted(scores, key=lambda name: -math.inf if (score := scores[name]) is None else score, reverse=True)
        kept = order[: max(1, math.floor(len(order) * self._keep))]
        self.rungs.append(Rung(minutes, {name: scores[name] for name in order}, kept))
        rungs = [asdict(rung) for rung in self.rungs]
        replace_file(self._path, json.dumps({**self._asked, "rungs": rungs}, indent=1, ensure_ascii=False) + "\n")
        self._say(f"{self._metric} after {minutes:g} minutes of training:")
        for name in order:
            score = scores[name]
            shown = "none" if score is None else f"{score:.3g}"
            self._say(f"  {shown:>8}  {name}{'' if name in kept else '  (ends here)'}")
        return kept

    def _recorded(self) -> list[Rung]:
        if not self._path.is_file():
            return []
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))
            rungs = [Rung(float(rung["minutes"]), dict(rung["scores"]), list(rung["kept"])) for rung in held["rungs"]]
            asked = {name: held[name] for name in self._asked}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(
                f"{self._path} is not the record of a comparison: remove it to begin with all combinations again"
            ) from None
        if asked != self._asked or (rungs and set(rungs[0].scores) != set(self._contenders)):
            raise ConfigError(
                f"{self._path} is of another comparison, {asked}: repeat its words, or remove it to begin with all combinations again"
            )
        if any(not rung.kept or not set(rung.kept) <= set(self._contenders) for rung in rungs):
            raise ConfigError(
                f"{self._path} names combinations that the sweep does not have: remove it to begin with all of them again"
            )
        return rungs
