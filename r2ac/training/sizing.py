"""What a configuration leaves open about a fleet's size follows from the machine and from each other.

    actors                 fleet.num_actors, or one per core, or per actors.num_cpus where each takes more, as far as memory goes
    streams of an actor    fleet.num_streams spread over them, or actors.num_envs, or fleet.shared_streams over their number
    segments per update    learner.batch_segments, or as many contributions as keep the expected lag at learner.target_lag
    largest lag            learner.max_lag, or twice the expected lag

An actor's unroll is under way while each of the others sends one, so with ``k`` unrolls in flight for each of ``n`` actors, and ``m``
contributions per update, its contribution is ``(n k - 1) / m`` versions late where it begins with weights that know what the actor has sent
before (``Algorithm.knows_its_own``, of fleets that are small), and ``n k / m`` at most where they do not. Where a node's contributions are
added up before they cross the network (``fleet.aggregate``) it is ``2 n k / m`` at most: they wait for each other. A learner that makes the
gradients itself is slower than its actors: those contributions that may wait for it (``schedules.WAITING``) are added before as well.
"""

import math
from dataclasses import replace

from actors.places import BYTES_OF_ONE
from conf.knobs import ConfigError
from conf.schema import TrainConfig
from learner.algorithms import adds_up, find_algorithm
from learner.schedules import WAITING

FEWEST_THAT_SHARE = 4
"""Fewer actors have no more streams each than so many would have."""
LEAST_MAX_LAG = 20
"""Of ``learner.max_lag`` where it is left open."""


def sized(config: TrainConfig, cores: int, memory: int | None = None) -> TrainConfig:
    """The configuration with every number that it left open, for a machine or cluster of that many cores and bytes of memory.

    Raises:
        ConfigError: if ``fleet.num_streams`` cannot be spread evenly, a part of an actor's streams would have none, or no contribution
            would ever be in time.
    """
    if config.learner.mode == "lockstep" and config.learner.max_lag == 0 and config.learner.lag_rule == "drop":
        raise ConfigError(
            "learner.mode=lockstep has a lag of one, so with learner.max_lag=0 every contribution would be dropped: "
            "raise learner.max_lag, or use learner.mode=sync"
        )
    num_cpus = config.actors.num_cpus
    room = max(1, int(cores / max(1.0, num_cpus)))
    if memory is not None:
        room = max(1, min(room, memory // BYTES_OF_ONE))
    num_actors, num_envs = _spread(config, room)
    if config.fleet.num_actors is None and config.fleet.address is None and num_actors * max(1.0, num_cpus) > cores:
        # More processes than cores, because the streams would have it so: they share what there is.
        num_cpus = min(num_cpus, math.floor(1000 * max(0.0, cores - config.learner.num_cpus) / num_actors) / 1000)
    if num_envs < config.actors.pipeline:
        raise ConfigError(
            f"actors.pipeline={config.actors.pipeline} steps an actor's streams in so many parts, but {num_actors} actors have {num_envs} "
            "each: use fewer actors or more streams, or actors.pipeline=1"
        )
    aggregate = config.fleet.aggregate
    if adds_up(config, num_actors):
        aggregate = "always"
    elif not config.fleet.follow_cluster:  # that of one that follows is known when its cluster is
        aggregate = "never"
    config = replace(
        config,
        fleet=replace(config.fleet, num_actors=num_actors, aggregate=aggregate),
        actors=replace(config.actors, num_envs=num_envs, num_cpus=num_cpus),
    )
    return _with_updates(config)


def settled(asked: TrainConfig, config: TrainConfig, room: int) -> TrainConfig:
    """A sized configuration whose fleet follows a cluster that has room for so many actors as it begins: whether they are added up."""
    aggregate = "always" if adds_up(config, room) else "never"
    fleet = replace(config.fleet, aggregate=aggregate)
    assert fleet.num_actors is not None
    return resized(asked, replace(config, fleet=fleet), fleet.num_actors)


def resized(asked: TrainConfig, config: TrainConfig, num_actors: int) -> TrainConfig:
    """A sized configuration whose fleet has become of another size: its actors stay what they are, updates are what ``asked`` left open."""
    learner = replace(config.learner, batch_segments=asked.learner.batch_segments, max_lag=asked.learner.max_lag)
    return _with_updates(replace(config, fleet=replace(config.fleet, num_actors=num_actors), learner=learner))


def _with_updates(config: TrainConfig) -> TrainConfig:
    learner = config.learner
    if learner.batch_segments is None:
        contributions = math.ceil(_sent_meanwhile(config) / learner.target_lag)
        learner = replace(learner, batch_segments=config.actors.streams * max(1, contributions))
    config = replace(config, learner=learner)
    if learner.max_lag is None:
        config.learner = replace(learner, max_lag=max(LEAST_MAX_LAG, math.ceil(2 * expected_lag(config))))
    return config


def expected_lag(config: TrainConfig) -> float:
    """Versions that a contribution of a sized configuration arrives late on average, at most."""
    if config.learner.mode != "async":
        return 0.0 if config.learner.mode == "sync" else 1.0
    return _sent_meanwhile(config) / _contributions_per_update(config)


def choices(
    asked: TrainConfig, config: TrainConfig, cores: int, *, updates_in_batches: bool, has_cuda: bool
) -> list[str]:
    """What became of a configuration on this machine, and why: a line for the fleet, one for updates.

    Args:
        asked: as it was before it was ``sized``.
        updates_in_batches: of what arrives, as ``learner.batch_segments`` says.
        has_cuda: a CUDA device is there.
    """
    actors, fleet, learner = config.actors, config.fleet, config.learner
    assert fleet.num_actors is not None
    where = actors.device
    if has_cuda and actors.device == learner.device == "cpu":
        where += "; the CUDA device is left alone (actors.device=cuda learner.device=cuda)"
    lines = [
        f"{_several(fleet.num_actors, 'actor')} ({_why_so_many(asked, config, cores)}) of {_several(actors.streams, 'stream')} "
        f"({_why_so_many_streams(asked)}), unrolls of {_several(actors.unroll, 'step')}, on {where}"
    ]
    return [*lines, update_line(asked, config)] if updates_in_batches else lines


def update_line(asked: TrainConfig, config: TrainConfig) -> str:
    """What an update is made of, and why; arguments as ``choices``."""
    actors, fleet, learner = config.actors, config.fleet, config.learner
    assert fleet.num_actors is not None
    if learner.mode == "async":
        segments = _contributions_per_update(config) * actors.streams
        why = "learner.target_lag" if asked.learner.batch_segments is None else "learner.batch_segments"
    else:
        segments, why = fleet.num_actors * actors.streams, f"learner.mode={learner.mode}"
    return (
        f"an update of the weights for every {_several(segments * actors.unroll, 'step')}, {segments} times an unroll of one stream "
        f"({why}), made with weights that are on average at most {expected_lag(config):.1f} updates old"
    )


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _why_so_many(asked: TrainConfig, config: TrainConfig, cores: int) -> str:
    if asked.fleet.num_actors is not None:
        return "fleet.num_actors"
    if asked.fleet.follow_cluster:
        return "fleet.min_actors, to begin with; as many as the cluster has room for come"
    if asked.fleet.num_streams is not None:
        return "fleet.num_streams"
    each = max(1.0, asked.actors.num_cpus)
    if config.fleet.num_actors == max(1, int(cores / each)):
        return f"one per core of {cores}" if each == 1 else f"{each:g} of {cores} cores each, as actors.num_cpus says"
    return f"as many as memory is for, of {cores} cores"


def _why_so_many_streams(asked: TrainConfig) -> str:
    if asked.fleet.num_streams is not None:
        return "fleet.num_streams"
    return "fleet.shared_streams" if asked.actors.num_envs is None else "actors.num_envs"


def doubts(config: TrainConfig) -> list[str]:
    """What a user should know about a sized configuration before it runs, a sentence each."""
    learner, num_envs = config.learner, config.actors.streams
    if learner.mode != "async":
        return []
    assert learner.batch_segments is not None
    assert learner.max_lag is not None
    sentences = []
    if (taken := _contributions_per_update(config) * num_envs) != learner.batch_segments:
        sentences.append(
            f"an update takes {taken} segments instead of learner.batch_segments={learner.batch_segments}, because a contribution "
            f"holds {num_envs} (actors.num_envs)"
        )
    lag = expected_lag(config)
    if lag > learner.max_lag and learner.lag_rule != "accept":
        fate = "dropped" if learner.lag_rule == "drop" else "damped"
        sentences.append(
            f"{config.fleet.num_actors} actors and {taken} segments per update let contributions arrive about {lag:.0f} versions late, "
            f"beyond learner.max_lag={learner.max_lag}, so about {1 - learner.max_lag / lag:.0%} of them will be {fate}: leave "
            f"learner.batch_segments and learner.max_lag open (null), or use fewer actors"
        )
    return sentences


def _spread(config: TrainConfig, room: int) -> tuple[int, int]:
    """Actors, and streams of each, where there is room for so many actors."""
    streams, num_actors = config.fleet.num_streams, config.fleet.num_actors
    if streams is None:
        num_actors = num_actors or (config.fleet.min_actors if config.fleet.follow_cluster else room)
        return num_actors, config.actors.num_envs or max(
            config.actors.pipeline, config.fleet.shared_streams // max(num_actors, FEWEST_THAT_SHARE), 1
        )
    if num_actors is not None:
        if streams % num_actors:
            fitting = [count for count in range(1, streams + 1) if streams % count == 0]
            raise ConfigError(
                f"fleet.num_streams={streams} cannot be spread evenly over fleet.num_actors={num_actors}: choose one of "
                f"{', '.join(map(str, fitting))}, or leave fleet.num_actors open (null)"
            )
        return num_actors, streams // num_actors
    # Updates of exactly batch_segments need contributions that divide it.
    batch = config.learner.batch_segments if config.learner.mode == "async" else None
    most = config.actors.num_envs or max(1, streams // FEWEST_THAT_SHARE)
    sizes = [size for size in range(1, most + 1) if streams % size == 0 and (batch or 0) % size == 0]
    counts = [streams // size for size in sizes]
    num_actors = max((count for count in counts if count <= room), default=min(counts))
    return num_actors, streams // num_actors


def _sent_meanwhile(config: TrainConfig) -> int:
    """Contributions that the weights of an unroll do not know, and that are added before it is."""
    fleet = config.fleet
    assert fleet.num_actors is not None
    under_way = fleet.num_actors * fleet.in_flight
    if fleet.kind == "local":  # nothing is on its way
        return under_way - 1
    if (
        fleet.aggregate == "always"
    ):  # a contribution waits for the rest of its sum, and weights for the next one to begin
        return 2 * under_way
    if find_algorithm(config.algorithm).knows_its_own:
        return under_way - (fleet.num_actors <= WAITING)
    return under_way + math.ceil(fleet.num_actors / WAITING)


def _contributions_per_update(config: TrainConfig) -> int:
    assert config.learner.batch_segments is not None
    return math.ceil(config.learner.batch_segments / config.actors.streams)
