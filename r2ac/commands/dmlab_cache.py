"""``rtrl-dmlab-cache``: builds DeepMind Lab's maps ahead of a run, so that no actor waits for them.

It resets engines with the very level seeds that ``env.start_level`` and ``env.num_levels`` let a run draw from. What is in the
cache already costs only its lookup, so a fill that was interrupted goes on when started again.
"""

import os
import select
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING
from rich.console import Console

from conf.describe import describe
from conf.env_schema import MAX_INT32, DMLab30Config, DMLabConfig
from conf.knobs import MAX_BYTES, MAX_S, ConfigError, knob
from conf.load import load_options
from envs.base import MissingDependency, UnknownEnvironment
from envs.dmlab.cache import CacheCounts
from envs.dmlab.engine import EngineOptions
from envs.dmlab.levels import BUILD_MAPS
from envs.dmlab.process import EngineDied, EngineProcess, EngineRefused, ModuleUnusable
from envs.dmlab.suite import engine_options, level_names
from r2ac.commands.user_mistakes import printed, reported

REPORT_EVERY_S = 10.0
FIRST_FAILURES = 3
"""Per worker, without a single success, after which there is no point in going on."""
NEARLY_FULL = 0.85
"""Of ``level_cache_bytes``: the cache empties itself to 0.9 of it."""


@dataclass
class DMLabCacheConfig:
    """What to build, and where."""

    level_cache: str = knob(MISSING, "folder of compiled levels, as env.level_cache of the run", place=True)
    level_cache_remote: str | None = knob(
        None, "second tier behind it, as env.level_cache_remote of the run", place=True
    )
    level_cache_bytes: int = knob(
        20_000_000_000, "size of level_cache beyond which the oldest go", minimum=1, maximum=MAX_BYTES
    )
    levels: list[str] = knob([], "levels by name; empty is all of DMLab-30 that build maps", length=(0, 1000))
    split: str = knob("train", "as env.split of the run", choices=("train", "test"))
    num_levels: int = knob(1000, "level seeds per level, as env.num_levels of the run", minimum=1, maximum=MAX_INT32)
    start_level: int = knob(0, "first of them, as env.start_level of the run", minimum=0, maximum=MAX_INT32)
    renderer: str = knob("software", "as env.renderer of the run", choices=("software", "hardware"))
    workers: int | None = knob(None, "engines at a time; null is one per core", minimum=1, maximum=1000)
    reset_timeout_s: float = knob(
        300.0, "an engine that takes longer for a level is replaced", minimum=0.1, maximum=MAX_S
    )


@dataclass(slots=True)
class Filling:
    done: int = 0
    """Episodes begun."""
    failed: list[str] = field(default_factory=list)
    """Level, seed and reason of those that could not be."""
    cache: CacheCounts = field(default_factory=CacheCounts)


def fill(
    levels: Sequence[EngineOptions],
    seeds: range,
    workers: int,
    reset_limit_s: float,
    progress: Callable[[Filling], None],
) -> Filling:
    """Begins one episode per level and seed, on ``workers`` engines at a time; ``progress`` is called after each.

    A seed whose engine dies or hangs is left out, and the next engine goes on after it; but not if none has ever succeeded.

    Raises:
        UnknownEnvironment: if an engine refuses its level or settings.
        MissingDependency: if the module cannot be imported.
    """
    waiting = [deque(seeds) for _ in levels]
    filling = Filling()
    engines: dict[EngineProcess, int] = {}
    with tempfile.TemporaryDirectory(prefix="r2ac-dmlab-cache-") as folder:
        try:
            while True:
                while len(engines) < workers and any(waiting):
                    level = max(range(len(levels)), key=lambda level: len(waiting[level]))
                    engine = EngineProcess(levels[level], level, Path(folder), reset_limit_s, reset_limit_s)
                    engines[engine] = waiting[level].popleft()
                    engine.reset(engines[engine])
                if not engines or (not filling.done and len(filling.failed) > FIRST_FAILURES * workers):
                    return filling
                for engine in _answered_or_late(engines):
                    failure = _failure(engine, levels[engine.level])
                    if failure is None:
                        filling.done += 1
                    else:
                        filling.failed.append(f"{levels[engine.level].level} with seed {engines[engine]}: {failure}")
                    if engine.busy or not waiting[engine.level]:
                        _stop(engine, filling)
                        del engines[engine]
                    else:
                        engines[engine] = waiting[engine.level].popleft()
                        engine.reset(engines[engine])
                    progress(filling)
        finally:
            for engine in engines:
                _stop(engine, filling)


def _answered_or_late(engines: dict[EngineProcess, int]) -> list[EngineProcess]:
    deadline = min(engine.deadline for engine in engines if engine.deadline is not None)
    answered, _, _ = select.select(list(engines), [], [], max(0.0, deadline - time.monotonic()))
    now = time.monotonic()
    return answered or [engine for engine in engines if engine.deadline is not None and engine.deadline <= now]


def _failure(engine: EngineProcess, options: EngineOptions) -> str | None:
    """Why the engine has not begun its episode; ``None`` if it has. One that died or is late stays busy."""
    if not select.select([engine], [], [], 0)[0]:
        return "no answer in time (reset_timeout_s)"
    try:
        engine.receive()
    except ModuleUnusable as problem:
        raise MissingDependency(str(problem)) from None
    except EngineRefused as refusal:
        raise UnknownEnvironment(f"DeepMind Lab cannot open {options.level}: {refusal}") from None
    except EngineDied as death:
        return str(death)
    return None


def _stop(engine: EngineProcess, filling: Filling) -> None:
    filling.cache = filling.cache.plus(engine.cache_counts)
    engine.stop()


def run(config: DMLabCacheConfig, console: Console) -> int:
    """Exit status: 1 if something could not be built, or not be kept."""
    env = DMLab30Config(
        levels=config.levels or list(BUILD_MAPS),
        split=config.split,
        renderer=config.renderer,
        num_levels=config.num_levels,
        start_level=config.start_level,
        level_cache=config.level_cache,
        level_cache_remote=config.level_cache_remote,
        level_cache_bytes=config.level_cache_bytes,
        reset_timeout_s=config.reset_timeout_s,
    )
    levels = engine_options(env, level_names(env))
    cache = levels[0].cache
    assert cache is not None
    if (reason := cache.why_unwritable()) is not None:
        raise ConfigError(f"level_cache={config.level_cache}: expected a folder that can be written, got: {reason}")
    seeds = range(config.start_level, config.start_level + config.num_levels)
    total = len(levels) * len(seeds)
    workers = min(total, config.workers or len(os.sched_getaffinity(0)))
    console.print(f"{total} episodes of {len(levels)} levels on {workers} engines, into {config.level_cache}")
    started = reported_at = time.monotonic()

    def progress(filling: Filling) -> None:
        nonlocal reported_at
        now, count = time.monotonic(), filling.done + len(filling.failed)
        if now - reported_at >= REPORT_EVERY_S:
            reported_at = now
            left = (now - started) / count * (total - count)
            console.print(f"{count:>8} of {total}   {left / 60:.0f} minutes left")

    filling = fill(levels, seeds, workers, config.reset_timeout_s, progress)
    return _report(filling, config, env, console)


def _report(filling: Filling, config: DMLabCacheConfig, env: DMLabConfig, console: Console) -> int:
    assert env.level_cache is not None
    used = sum(path.stat().st_size for path in Path(env.level_cache).expanduser().rglob("*.pk3"))
    console.print(
        f"{filling.done} episodes: {filling.cache.misses} maps built, {filling.cache.hits} were there; "
        f"{used / 1e6:.1f} MB in the cache"
    )
    if used > NEARLY_FULL * config.level_cache_bytes:
        console.print("warning: the cache is full, and the oldest maps have gone again: raise level_cache_bytes")
    if filling.failed:
        console.print(f"error: {len(filling.failed)} episodes could not be begun, for instance {filling.failed[0]}")
        return 1
    if filling.cache.failures:
        console.print(
            f"error: {filling.cache.failures} of the maps built could not be kept: level_cache={config.level_cache}"
            + (f" or level_cache_remote={config.level_cache_remote}" if config.level_cache_remote else "")
            + " cannot be written any more, or its disk is full"
        )
        return 1
    console.print(
        f"play them with env.level_cache={config.level_cache} env.start_level={config.start_level} "
        f"env.num_levels={config.num_levels}" + (" env.split=test" if config.split == "test" else "")
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        return printed("usage: rtrl-dmlab-cache level_cache=FOLDER [option=value ...]\n\n" + describe(DMLabCacheConfig))
    return reported(lambda: run(load_options(DMLabCacheConfig, arguments), Console(soft_wrap=True, markup=False)))


if __name__ == "__main__":
    sys.exit(main())
