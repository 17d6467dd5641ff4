"""From options to a DMLab environment: which levels, how their engines are opened, and what is missing on this machine."""

from collections.abc import Sequence
from pathlib import Path

from conf.env_schema import DMLab30Config, DMLabConfig, EnvConfig
from conf.knobs import ConfigError
from envs.base import EnvSpec, MissingDependency, UnknownEnvironment, VectorEnv, spawn_seeds
from envs.dmlab import module
from envs.dmlab.cache import CacheOptions
from envs.dmlab.checks import CHECK
from envs.dmlab.engine import EngineOptions
from envs.dmlab.environment import DMLabEnv
from envs.dmlab.instructions import MAX_WORDS
from envs.dmlab.levels import BUILD_MAPS, BY_NAME, DMLAB30, NEED_DATASET, engine_level
from envs.dmlab.protocol import level_by_level, one_level
from envs.dmlab.remote_tier import RemoteTier
from envs.dmlab.schedule import LEVEL_SCHEDULES, NUM_SEEDS, LevelSeeds
from envs.dmlab.scores import capped_mean_score, level_score
from envs.dmlab.supervisor import Supervisor
from envs.suite import DoctorCheck, Part, Suite, SuiteScore

TEST_MIXER_SEED = 0x600D5EED
"""Of IMPALA's test protocol: level seeds mean other levels than in training."""


def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
    """Raises ``UnknownEnvironment`` for an unknown level, ``MissingDependency`` without the module or a level's pictures."""
    assert isinstance(config, DMLabConfig)
    return make_part(config, num_envs, seed, Part(0, 1, 0))


def make_part(config: DMLabConfig, num_envs: int, seed: int, part: Part) -> VectorEnv:
    """Parts divide the spare engines, and under a fixed schedule the levels, as the streams of one environment would have them."""
    names = level_names(config)
    levels = engine_options(config, names)
    seeds = LevelSeeds(
        spawn_seeds(seed, part.of)[part.number] if part.of > 1 else seed, config.num_levels, config.start_level
    )
    several = isinstance(config, DMLab30Config)
    schedule = LEVEL_SCHEDULES[config.schedule if several else "fixed"](len(levels), seeds, seed, part.first_stream)
    spares = config.spare_engines // part.of + (part.number < config.spare_engines % part.of)
    supervisor = Supervisor(
        levels,
        schedule,
        num_envs,
        spares,
        config.step_timeout_s,
        config.reset_timeout_s,
        config.wait_for_reset,
    )
    return DMLabEnv(
        f"{config.suite}/{config.name}",
        supervisor,
        names if several else (),
        config.actions,
        config.frame_skip,
        (config.height, config.width),
        config.instruction,
    )


def level_names(config: DMLabConfig) -> list[str]:
    """The levels to play, by the name they have in ``config.split``."""
    if isinstance(config, DMLab30Config):
        known = [level.name for level in DMLAB30]
        names = list(config.levels) or known
        if len(set(names)) < len(names):
            raise ConfigError(f"env.levels must name each level once, got {', '.join(names)}")
    else:
        names = [config.name]
    return [_of_split(name, config.split) for name in names]


def _of_split(name: str, split: str) -> str:
    level = BY_NAME.get(name)
    if level is None or split == "test":
        return name if level is None else level.test
    if name != level.name:
        raise ConfigError(f"{name} is held out of training: set env.split=test, or play {level.name}")
    return name


def engine_options(config: DMLabConfig, names: Sequence[str]) -> list[EngineOptions]:
    """How the engine of each level is opened.

    Raises:
        ConfigError: for options that the engine would not take.
        UnknownEnvironment, MissingDependency: see ``make``.
    """
    _check(config)
    paths = [engine_level(name) for name in names]
    settings = {"width": str(config.width), "height": str(config.height), "fps": "60", "logLevel": "WARN"}
    if config.split == "test":
        settings |= {"allowHoldOutLevels": "true", "mixerSeed": str(TEST_MIXER_SEED)}
    if config.dataset_path is not None:
        settings["datasetPath"] = str(Path(config.dataset_path).absolute())
    pictured = NEED_DATASET.intersection(names)
    if pictured and (config.dataset_path is None or not Path(config.dataset_path).is_dir()):
        raise MissingDependency(
            f"{' and '.join(sorted(pictured))} show pictures that do not come with the engine: set env.dataset_path to the folder that "
            "data/brady_konkle_oliva2008 of github.com/google-deepmind/lab says how to make, or play other levels"
        )
    if not module.is_installed():
        raise MissingDependency(
            f"env={config.suite} needs the deepmind_lab module, which no package index has: {module.BUILD}"
        )
    built = set(BUILD_MAPS).intersection(names)
    if built and not module.has_zip():
        raise MissingDependency(
            f"{min(built)} builds its maps with the program zip, which is not on the PATH: install it, for instance with apt install zip"
        )
    cache = _cache_options(config)
    return [
        EngineOptions(
            level=path,
            settings=settings,
            width=config.width,
            height=config.height,
            renderer=config.renderer,
            frame_skip=config.frame_skip,
            instruction_length=MAX_WORDS if config.instruction else 0,
            cache=cache,
        )
        for path in paths
    ]


def _check(config: DMLabConfig) -> None:
    for option in ("width", "height"):
        if getattr(config, option) % 4:
            raise ConfigError(f"env.{option} must be a multiple of 4, got {getattr(config, option)}")
    if config.num_levels is not None and config.start_level + config.num_levels > NUM_SEEDS:
        raise UnknownEnvironment(
            f"DMLab has level seeds below {NUM_SEEDS}, but env.start_level + env.num_levels is "
            f"{config.start_level + config.num_levels}"
        )
    if config.num_levels is None and config.start_level:
        raise ConfigError("env.start_level needs env.num_levels: without it, all level seeds are played")
    if config.level_cache_remote is not None and config.level_cache is None:
        raise ConfigError(
            "env.level_cache_remote is a second tier: set env.level_cache to a folder of this machine too"
        )


def _cache_options(config: DMLabConfig) -> CacheOptions | None:
    if config.level_cache is None:
        return None
    folder = Path(config.level_cache).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"env.level_cache: cannot make the folder {folder}: {error.strerror}") from None
    if config.level_cache_remote is not None:
        try:
            RemoteTier(config.level_cache_remote)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"env.level_cache_remote={config.level_cache_remote}: {error}") from None
    return CacheOptions(str(folder), config.level_cache_remote, config.level_cache_bytes)


def human_score(spec: EnvSpec, split: str, mean_return: float) -> float | None:
    """Of a level of DMLab-30: splits are levels."""
    return level_score(split, [mean_return])


ONE_LEVEL = Suite(DMLabConfig, make, make_part=make_part, protocol=one_level, split_score=human_score, check=CHECK)
DMLAB_30 = Suite(
    DMLab30Config,
    make,
    make_part=make_part,
    protocol=level_by_level,
    split_score=human_score,
    suite_score=SuiteScore("dmlab30", "DMLab-30", "mean of the levels' scores, each at most 100 %", capped_mean_score),
    check=DoctorCheck(CHECK.advice, unasked=False),  # the same engine, many times
)
