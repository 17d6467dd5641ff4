"""What a program of another project says of its games, for ``benchmarks.peers``: a file per process, a line per game and per 200 steps.

Only the standard library: it is imported in environments that have nothing of ours.
"""

import json
import os
from pathlib import Path


class Games:
    """Of the environments of one process."""

    EVERY = 200
    """Steps between two lines."""

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._file = (Path(folder) / f"games_{os.getpid()}.jsonl").open("a", buffering=1)
        self._steps = 0

    def step(self, steps: int = 1) -> None:
        """Decisions of an agent that were carried out."""
        self._steps += steps
        if self._steps >= self.EVERY:
            self._write()

    def over(self, score: float) -> None:
        """A whole game has ended, with this raw score."""
        self._write(float(score))

    def close(self) -> None:
        self._file.close()

    def _write(self, score: float | None = None) -> None:
        self._file.write(json.dumps({"steps": self._steps, "score": score}) + "\n")
        self._steps = 0


def recorded(env_id: str, folder: str, gymnasium, ale_py):  # no types: of whichever version is installed there
    """An ALE game without frame skipping, below all wrappers, that records steps of four frames and whole games."""
    if hasattr(gymnasium, "register_envs"):
        gymnasium.register_envs(ale_py)
    games = Games(folder)

    class Recorded(gymnasium.Wrapper):
        def __init__(self, env) -> None:
            super().__init__(env)
            self._frames, self._score = 0, 0.0

        def reset(self, **options):
            self._score = 0.0
            return self.env.reset(**options)

        def step(self, action):
            found = self.env.step(action)
            _, reward, terminated, truncated, _ = found
            self._frames += 1
            self._score += float(reward)
            if self._frames % 4 == 0:
                games.step()
            if terminated or truncated:
                games.over(self._score)
                self._score = 0.0
            return found

        def close(self):
            games.close()
            return super().close()

    return Recorded(gymnasium.make(env_id))
