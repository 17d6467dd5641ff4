"""Keeps one engine playing in every stream, prepares the next episodes, and replaces engines that end or hang.

    prepared   engines that reset, or have reset, for an episode to come: spares, and those whose episode has just ended
    playing    the engine of each stream; none while its next episode is not ready

    episode ends in a stream -> its engine joins the back of ``prepared`` -> the stream takes one that is ready
    engine dies or is late   -> a new one takes its place in ``prepared``; a stream that it played for has lost its episode

So a slow reset costs its own stream some rows at most, and none if there are spares. With ``wait_for_reset`` streams take the
prepared engines in order instead, ready or not, and every stream waits: then which episodes are played does not depend on how long it took.
"""

import contextlib
import fcntl
import os
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from envs.base import EnvironmentFailure, MissingDependency, UnknownEnvironment
from envs.dmlab.cache import CacheCounts
from envs.dmlab.engine import EngineOptions
from envs.dmlab.process import EngineDied, EngineProcess, EngineRefused, ModuleUnusable
from envs.dmlab.schedule import Assignment, Schedule

FOLDER_PREFIX = "r2ac-dmlab-"
SPARE_FAILURES = 3
"""Engines in a row, beyond one each, that may end before any of them has begun an episode."""


class Supervisor:
    """
    Args:
        levels: how the engine of each level is opened.
        step_limit_s, reset_limit_s: after which an engine counts as stuck; the latter also for opening one.
    """

    def __init__(
        self,
        levels: Sequence[EngineOptions],
        schedule: Schedule,
        num_streams: int,
        num_spares: int,
        step_limit_s: float,
        reset_limit_s: float,
        wait_for_reset: bool,
    ) -> None:
        self.playing: list[EngineProcess | None] = [None] * num_streams
        self.restarts = 0
        self.deadlines_missed = 0
        self.lost: set[int] = set()
        """Streams whose engine ended in their episode, since the present step began."""
        self._levels = levels
        self._schedule = schedule
        self._num_spares = num_spares
        self._limits = (step_limit_s, reset_limit_s)
        self._wait_for_reset = wait_for_reset
        self._prepared: list[EngineProcess] = []
        self._lengths = np.zeros(num_streams, np.int64)
        self._by_handle: dict[int, EngineProcess] = {}
        self._poll = select.poll()
        self._failures = 0
        self._any_opened = False
        self._cache_counts = CacheCounts()
        """Of the engines that are gone."""
        self._folder: _JobFolder | None = None

    def start(self) -> None:
        """Opens every engine, all at once, and waits until each stream plays; leaves none behind if that fails.

        Raises:
            UnknownEnvironment: if the engine knows no such level.
            MissingDependency: if the module cannot be imported.
            EnvironmentFailure: if engines keep ending.
        """
        self._folder = _JobFolder()
        num_streams = len(self.playing)
        try:
            for number in range(num_streams + self._num_spares):
                self._prepared.append(self._open(self._schedule.plan(number % num_streams)))
            self._wait_for_the_first()
            self._take_the_first()
        except BaseException:
            self.close()
            raise

    def begin_step(self, actions: np.ndarray) -> None:
        """Tells the engine of every stream that plays to take a step; ``actions`` int32 ``[B, 7]``."""
        self.lost = set()
        for stream, engine in enumerate(self.playing):
            if engine is not None:
                engine.step(actions[stream])

    def answers(self) -> Iterator[tuple[int, EngineProcess]]:
        """Ends the step that was begun.

        Yields the streams whose engine has taken it, while others are still at theirs; streams that lose theirs are in ``lost``
        afterwards. To be read to its end.
        """
        # One after the other: a look at all of them would wake this process, and take a core from an engine, at every answer.
        for stream, engine in enumerate(self.playing):
            while engine is not None and engine.busy and self.playing[stream] is engine:
                self._await(engine)
            if engine is not None and self.playing[stream] is engine:
                yield stream, engine
        if any(engine.busy for engine in self._prepared):
            self._look(0.0)
        self._lengths += 1

    def finish(self, stream: int) -> None:
        """The stream's episode is over: its engine, or one of another level, prepares the next."""
        engine = self.playing[stream]
        assert engine is not None
        assignment = self._next_assignment(stream)
        if assignment.level == engine.level:
            engine.reset(assignment.seed)
        else:
            # An engine is opened for one level, and leaks when opened again: another level gets a new process.
            self._discard(engine)
            engine = self._open(assignment)
        self._prepared.append(engine)

    def fill(self) -> list[int]:
        """Gives streams without an engine one that is ready. Returns those that got one; at least one stream plays afterwards."""
        if None not in self.playing:
            return []
        self._look(0.0)  # an engine that died while it was not needed must not be given away
        if self._wait_for_reset:
            self._wait_for_the_first()
            return self._take_the_first()
        if not any(self.playing):
            self._wait_until(lambda: any(self._ready_for(stream) for stream in self._empty()))
        filled = []
        for stream in self._empty():
            engine = self._ready_for(stream)
            if engine is not None:
                self._take(stream, engine)
                filled.append(stream)
        return filled

    def cache_counts(self) -> CacheCounts:
        """Of all engines there have been."""
        return reduce(
            CacheCounts.plus, (engine.cache_counts for engine in self._by_handle.values()), self._cache_counts
        )

    def notices(self) -> list[str]:
        """What a person should know before engines play, because the levels' cache will not say it."""
        caches = {options.cache for options in self._levels if options.cache is not None}
        return [
            f"maps are built but not kept: env.level_cache={cache.folder} cannot be written ({reason})"
            for cache in caches
            if (reason := cache.why_unwritable()) is not None
        ]

    def close(self) -> None:
        for engine in list(self._by_handle.values()):
            self._discard(engine)
        self.playing = [None] * len(self.playing)
        self._prepared = []
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _empty(self) -> list[int]:
        return [stream for stream, engine in enumerate(self.playing) if engine is None]

    def _first(self) -> list[EngineProcess]:
        """For each empty stream the first prepared engine that it may have and no stream before it gets."""
        left = list(self._prepared)
        chosen: list[EngineProcess] = []
        for stream in self._empty():
            engine = next(engine for engine in left if self._schedule.accepts(stream, engine.level))
            left.remove(engine)
            chosen.append(engine)
        return chosen

    def _wait_for_the_first(self) -> None:
        self._wait_until(lambda: not any(engine.busy for engine in self._first()))

    def _take_the_first(self) -> list[int]:
        streams = self._empty()
        for stream, engine in zip(streams, self._first(), strict=True):
            self._take(stream, engine)
        return streams

    def _ready_for(self, stream: int) -> EngineProcess | None:
        accepts = self._schedule.accepts
        return next((e for e in self._prepared if not e.busy and accepts(stream, e.level)), None)

    def _take(self, stream: int, engine: EngineProcess) -> None:
        self._prepared.remove(engine)
        self.playing[stream] = engine
        self._lengths[stream] = 0

    def _next_assignment(self, stream: int) -> Assignment:
        """Takes the stream's engine away from it."""
        engine = self.playing[stream]
        assert engine is not None
        self.playing[stream] = None
        self._schedule.record(engine.level, int(self._lengths[stream]))
        return self._schedule.plan(stream)

    def _open(self, assignment: Assignment) -> EngineProcess:
        assert self._folder is not None
        engine = EngineProcess(self._levels[assignment.level], assignment.level, self._folder.path, *self._limits)
        self._by_handle[engine.fileno()] = engine
        self._poll.register(engine.fileno(), select.POLLIN)
        engine.reset(assignment.seed)
        return engine

    def _discard(self, engine: EngineProcess) -> None:
        self._cache_counts = self._cache_counts.plus(engine.cache_counts)
        self._poll.unregister(engine.fileno())
        del self._by_handle[engine.fileno()]
        engine.stop()

    def _wait_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._look(
                min(engine.deadline for engine in self._by_handle.values() if engine.deadline) - time.monotonic()
            )

    def _await(self, engine: EngineProcess) -> None:
        """Takes the answer of an engine that is at a step; if it is late, sees to all that are."""
        if not self._take_answer(engine):
            self._look(0.0)

    def _look(self, timeout_s: float) -> None:
        """Takes the answers that are there or come within ``timeout_s``, then replaces the engines that are late."""
        for handle, _ in self._poll.poll(max(0.0, timeout_s * 1000)):
            engine = self._by_handle.get(handle)
            if engine is not None:
                self._take_answer(engine)
        now = time.monotonic()
        for engine in [e for e in self._by_handle.values() if e.deadline is not None and e.deadline <= now]:
            self.deadlines_missed += 1
            level = self._levels[engine.level].level
            self._replace(
                engine, f"the engine of {level} gave no answer in time (env.step_timeout_s, env.reset_timeout_s)"
            )

    def _take_answer(self, engine: EngineProcess) -> bool:
        """Whether there is one, be it that it has died."""
        try:
            if not engine.receive():
                return False
        except ModuleUnusable as problem:
            raise MissingDependency(str(problem)) from None
        except EngineRefused as refusal:
            if not self._any_opened:
                level = self._levels[engine.level].level
                raise UnknownEnvironment(f"DeepMind Lab cannot open {level}: {refusal}") from None
            self._replace(engine, str(refusal))
        except EngineDied as death:
            self._replace(engine, str(death))
        else:
            if engine not in self.playing:
                self._any_opened = True
                self._failures = 0
        return True

    def _replace(self, engine: EngineProcess, reason: str) -> None:
        """Ends an engine; a new one prepares another episode, because this one may have been what ended it."""
        self.restarts += 1
        self._failures += 1
        self._discard(engine)
        if self._failures > len(self.playing) + self._num_spares + SPARE_FAILURES:
            raise EnvironmentFailure(f"{self._failures} DMLab engines in a row began no episode: {reason}")
        if engine in self._prepared:
            self._prepared[self._prepared.index(engine)] = self._open(self._schedule.again(engine.level))
        else:
            stream = self.playing.index(engine)
            self.lost.add(stream)
            self._prepared.append(self._open(self._next_assignment(stream)))


class _JobFolder:
    """Where the engines of one environment leave their files: gone with it, or when the next one on this machine starts.

    Its owner holds a lock, which the operating system takes from it when it ends in whatever way.
    """

    def __init__(self) -> None:
        for stale in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
            with contextlib.suppress(OSError), (stale / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stale, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
