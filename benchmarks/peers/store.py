"""Runs of this program and of its peers, in a file, and what they say."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from r2ac.persistence.writing import replace_file

DATA = "peers.json"
GAMES = 100
WINDOW_S = 120.0
WARM_UP_S = 30.0
"""After which steps per second count."""


@dataclass(frozen=True, slots=True)
class PeerRun:
    """Samples of one run, as ``watch.Seen`` has them."""

    peer: str
    seed: int
    cores: int
    start: float
    wall: list[float]
    cpu: list[float]
    steps: list[int]
    games: list[int]
    score: list[float]

    def mean_return(self, index: int) -> float | None:
        """At a sample: of the last hundred games, or of those of the last two minutes where these are fewer.

        A hundred games are some twenty minutes of a slow program, which would be charged for what it did at the start.
        """
        first = index
        while (
            first and self.games[index] - self.games[first] < GAMES and self.wall[index] - self.wall[first] < WINDOW_S
        ):
            first -= 1
        games = self.games[index] - self.games[first]
        return (self.score[index] - self.score[first]) / games if games else None

    @property
    def final(self) -> float | None:
        return self.mean_return(len(self.wall) - 1)

    def at(self, clock: list[float], when: float) -> float | None:
        """The mean return when one of the clocks stood there; ``None`` where the run was over, or there was no game."""
        index = next((index for index, time in enumerate(clock) if time >= when), None)
        return None if index is None else self.mean_return(index)

    def reached(self, clock: list[float], goal: float) -> float | None:
        """When, by one of the clocks."""
        for index, time in enumerate(clock):
            mean = self.mean_return(index)
            if mean is not None and mean >= goal:
                return time
        return None

    def rate(self, clock: list[float]) -> float:
        """Steps per second of one of the clocks, warmed up."""
        start = next((index for index, wall in enumerate(self.wall[:-1]) if wall >= WARM_UP_S), 0)
        return (self.steps[-1] - self.steps[start]) / max(clock[-1] - clock[start], 1e-9)


class Runs:
    """A file of results. It is written anew after each run, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        held = json.loads(path.read_text()) if path.is_file() else []
        self.all = [PeerRun(**entry) for entry in held]

    def add(self, run: PeerRun) -> None:
        """Takes the place of an earlier one of this peer and seed."""
        self.all = [one for one in self.all if (one.peer, one.seed) != (run.peer, run.seed)] + [run]
        self.all.sort(key=lambda one: (one.peer, one.seed))
        self.copy(self._path)

    def copy(self, path: Path) -> None:
        lines = ",\n".join(json.dumps(asdict(one)) for one in self.all)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, f"[\n{lines}\n]\n")

    def of(self, peer: str) -> list[PeerRun]:
        return [run for run in self.all if run.peer == peer]
