"""Actors, streams, batches and lag limits that follow from the machine, tried far from home."""

import re
from functools import cache
from pathlib import Path

import pytest

import conf
from conf.knobs import ConfigError
from conf.load import load_train
from conf.schema import TrainConfig
from r2ac.monitoring.sinks import Sinks
from r2ac.training.loop import RunHooks, train
from r2ac.training.parts import require_all_parts
from r2ac.training.sizing import BYTES_OF_ONE, choices, doubts, expected_lag, resized, settled, sized


def size(cores: int, *words: str) -> TrainConfig:
    return sized(composed(words), cores)


@cache
def composed(words: tuple[str, ...]) -> TrainConfig:
    return load_train(words)


def late(config: TrainConfig) -> float:
    """Lag of the last of many contributions of a fleet whose actors take turns, as the learner would count it."""
    fleet, learner = config.fleet, config.learner
    assert fleet.num_actors
    assert learner.batch_segments
    version, segments = 0, 0
    under_way = [0] * (fleet.num_actors * fleet.in_flight)
    lags = []
    for _ in range(50 * len(under_way)):
        lags.append(version - under_way.pop(0))
        known = version
        segments += config.actors.streams
        if segments >= learner.batch_segments:
            version, segments = version + 1, 0
        under_way.append(version if fleet.num_actors <= 8 else known)
    half = lags[len(lags) // 2 :]
    return sum(half) / len(half)


@pytest.mark.seconds
@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("num_envs", [1, 32])
@pytest.mark.parametrize("num_actors", [1, 2, 9, 10, 60, 1000])
@pytest.mark.parametrize("target", [2, 8])
def test_batches_follow_the_fleet_so_that_contributions_are_in_time(
    num_actors: int, num_envs: int, in_flight: int, target: float
):
    words = [f"fleet.num_actors={num_actors}", f"actors.num_envs={num_envs}", f"fleet.in_flight={in_flight}"]
    config = size(2, *words, f"learner.target_lag={target}")
    assert config.learner.batch_segments is not None
    assert config.learner.max_lag is not None
    assert config.learner.batch_segments % num_envs == 0
    assert late(config) <= expected_lag(config) + 1 <= config.learner.target_lag + 1
    assert late(config) < config.learner.max_lag / 2
    assert doubts(config) == []


@pytest.mark.parametrize("num_actors", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("word", [None, "learner.batch_segments=40", "learner.max_lag=5"])
def test_a_fleet_of_another_size_has_the_updates_that_it_would_have_begun_with(num_actors: int, word: str | None):
    words = ("actors.num_envs=4", "learner.target_lag=2", *([] if word is None else [word]))
    asked = composed(("fleet.num_actors=auto", "fleet.min_actors=2", *words))
    begun = sized(asked, 16)
    assert (begun.fleet.num_actors, begun.fleet.follow_cluster) == (2, True)
    found = resized(asked, resized(asked, begun, 7), num_actors)
    assert found.learner == size(16, f"fleet.num_actors={num_actors}", *words).learner
    assert (found.fleet.num_actors, found.actors) == (num_actors, begun.actors)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("learner.mode=sync",), "learner.mode=sync has rounds of a fleet of fixed size: say fleet.num_actors=N"),
        (
            ("learner.mode=lockstep",),
            "learner.mode=lockstep has rounds of a fleet of fixed size: say fleet.num_actors=N",
        ),
        (
            ("fleet.num_streams=64",),
            "fleet.num_streams=64 is spread over a fleet of fixed size: say fleet.num_actors=N",
        ),
    ],
)
def test_what_keeps_a_fleet_of_fixed_size_refuses_to_follow_a_cluster(words: tuple[str, ...], said: str):
    config = composed(("fleet.num_actors=auto", *words))
    with pytest.raises(ConfigError, match=f"^fleet.num_actors=auto follows a cluster, but {re.escape(said)}"):
        require_all_parts(config)


@pytest.mark.parametrize("where", ["fleet=local", "fleet.address=null"])
def test_a_run_without_a_cluster_has_none_to_follow_and_a_job_is_told_its_own_later(where: str, tmp_path: Path):
    config = require_all_parts(composed(("fleet.num_actors=auto", where)))
    said = f"fleet.num_actors=auto follows a cluster, but {where} is this machine alone: name the cluster by"
    with pytest.raises(ConfigError, match=f"^{re.escape(said)} fleet.address"):
        train(config, tmp_path, Sinks([], print), RunHooks())


@pytest.mark.parametrize(
    ("words", "added_up", "sent_meanwhile"),
    [
        (("fleet.num_actors=63", "fleet.address=auto"), False, 63),
        (("fleet.num_actors=64", "fleet.address=auto"), True, 128),
        (("fleet.num_actors=64", "fleet.address=auto", "fleet.in_flight=2"), True, 256),
        (("fleet.num_actors=64",), False, 64),
        (("fleet.num_actors=64", "fleet.address=auto", "fleet.aggregate=never"), False, 64),
        (("fleet.num_actors=2", "fleet.aggregate=always"), True, 4),
        (("fleet.num_actors=64", "fleet.address=auto", "algorithm=impala", "rule=tbptt"), False, 72),
        (("fleet.num_actors=64", "fleet.address=auto", "learner.mode=sync"), True, None),
    ],
)
def test_contributions_are_added_up_where_there_are_many_actors_or_somebody_says_so(
    words: tuple[str, ...], added_up: bool, sent_meanwhile: int | None
):
    config = size(2, *words)
    assert config.fleet.aggregate == ("always" if added_up else "never")
    if sent_meanwhile is not None:
        assert config.learner.batch_segments is not None
        sent = sent_meanwhile * config.actors.streams
        assert expected_lag(config) == sent / config.learner.batch_segments <= config.learner.target_lag


@pytest.mark.parametrize("room", [63, 64])
def test_a_fleet_that_follows_its_cluster_adds_up_by_the_room_that_there_is_as_it_begins(room: int):
    asked = composed(("fleet.num_actors=auto", "fleet.address=auto", "fleet.min_actors=4"))
    begun = sized(asked, 16)
    assert begun.fleet.aggregate == "auto", "not known yet"
    config = settled(asked, begun, room)
    assert config.fleet.aggregate == ("always" if room == 64 else "never")
    assert expected_lag(config) <= config.learner.target_lag
    assert resized(asked, config, 500).fleet.aggregate == config.fleet.aggregate
    told = composed(("fleet.num_actors=auto", "fleet.address=auto", "fleet.aggregate=always"))
    assert sized(told, 16).fleet.aggregate == settled(told, sized(told, 16), 1).fleet.aggregate == "always"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("algorithm=impala", "rule=tbptt"), "algorithm=impala does not ship gradients"),
        (("fleet=local",), "fleet.kind=local has all actors in one process"),
    ],
)
def test_what_cannot_be_added_up_is_one_line(words: tuple[str, ...], why: str):
    with pytest.raises(ConfigError, match=f"fleet.aggregate=always adds gradients up where actors are, but {why}"):
        size(2, "fleet.aggregate=always", *words)


def test_a_small_fleet_updates_with_every_contribution():
    words = ("actors.num_envs=16", "learner.target_lag=8")
    assert [size(cores, *words).learner.batch_segments for cores in (1, 2, 8)] == [16, 16, 16]


@pytest.mark.parametrize(
    ("cores", "num_envs", "batch", "lag"),
    [
        *[(1, 8, 8, 0), (2, 8, 8, 1), (3, 8, 8, 2), (4, 8, 16, 1.5), (5, 6, 12, 2), (8, 4, 16, 1.75)],
        *[(9, 3, 15, 1.8), (16, 2, 16, 2.0), (32, 1, 16, 2.0), (64, 1, 32, 2.0), (200, 1, 100, 2.0)],
    ],
)
def test_make_train_has_few_streams_and_little_lag_on_any_machine(cores: int, num_envs: int, batch: int, lag: float):
    config = size(cores)
    assert (config.fleet.num_actors, config.actors.streams, config.learner.batch_segments) == (cores, num_envs, batch)
    assert expected_lag(config) == lag


@pytest.mark.parametrize(("word", "num_envs"), [("actors.num_envs=64", 64), ("fleet.num_streams=48", 3)])
def test_streams_that_the_user_asks_for_are_as_many(word: str, num_envs: int):
    assert size(16, word).actors.streams == num_envs


def test_streams_that_are_left_open_are_enough_for_the_parts_of_an_actor():
    assert size(64, "actors.pipeline=3").actors.streams == 3


@pytest.mark.parametrize(
    ("words", "memory", "num_actors"),
    [((), 7 * BYTES_OF_ONE, 7), ((), 1, 1), (("fleet.num_actors=12",), BYTES_OF_ONE, 12), ((), None, 64)],
)
def test_no_more_actors_are_started_by_themselves_than_memory_is_for(
    words: tuple[str, ...], memory: int | None, num_actors: int
):
    assert sized(composed(words), 64, memory).fleet.num_actors == num_actors


def said(
    cores: int, *words: str, memory: int | None = None, in_batches: bool = True, has_cuda: bool = False
) -> list[str]:
    asked = composed(words)
    return choices(asked, sized(asked, cores, memory), cores, updates_in_batches=in_batches, has_cuda=has_cuda)


def test_what_a_machine_makes_of_a_configuration_is_two_lines():
    assert said(16, has_cuda=True) == [
        "16 actors (one per core of 16) of 2 streams (fleet.shared_streams), unrolls of 32 steps, on cpu; the CUDA device is left alone "
        "(actors.device=cuda learner.device=cuda)",
        "an update of the weights for every 512 steps, 16 times an unroll of one stream (learner.target_lag), made with weights that are "
        "on average at most 2.0 updates old",
    ]
    assert said(1, "learner.mode=sync", "actors.num_envs=1") == [
        "1 actor (one per core of 1) of 1 stream (actors.num_envs), unrolls of 32 steps, on cpu",
        "an update of the weights for every 32 steps, 1 times an unroll of one stream (learner.mode=sync), made with weights that are "
        "on average at most 0.0 updates old",
    ]
    assert len(said(2, in_batches=False)) == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("fleet.num_actors=3",), "3 actors (fleet.num_actors) of 8 streams (fleet.shared_streams)"),
        (("fleet.num_streams=48",), "8 actors (fleet.num_streams) of 6 streams (fleet.num_streams)"),
        (("actors.num_cpus=3",), "2 actors (3 of 8 cores each, as actors.num_cpus says) of 8 streams"),
        (("learner.batch_segments=32",), "8 actors (one per core of 8) of 4 streams"),
    ],
)
def test_it_is_said_what_decided(words: tuple[str, ...], why: str):
    fleet, updates = said(8, *words)
    assert fleet.startswith(why)
    assert ("(learner.batch_segments)" in updates) == ("learner.batch_segments=32" in words)


def test_memory_that_decided_is_said():
    (fleet, _) = said(64, memory=5 * BYTES_OF_ONE)
    assert fleet.startswith("5 actors (as many as memory is for, of 64 cores) of 6 streams")


def test_a_batch_of_the_users_own_lifts_the_limit_with_the_fleet():
    config = size(60, "learner.batch_segments=32", "actors.num_envs=32")
    assert (config.fleet.num_actors, config.learner.max_lag) == (60, 120)
    assert late(config) == pytest.approx(expected_lag(config)) == 60
    assert doubts(config) == []


@pytest.mark.seconds
@pytest.mark.parametrize(("rule", "word"), [("drop", "dropped"), ("damp", "damped")])
def test_a_lag_beyond_the_limit_is_said(rule: str, word: str):
    words = ["learner.batch_segments=32", "actors.num_envs=32", "learner.max_lag=20", f"learner.lag_rule={rule}"]
    (said,) = doubts(size(60, *words))
    assert "60 actors and 32 segments per update" in said
    assert f"about 60 versions late, beyond learner.max_lag=20, so about 67% of them will be {word}" in said
    assert doubts(size(20, *words)) == []
    assert doubts(size(60, *words, "learner.lag_rule=accept")) == []
    assert doubts(size(60, *words, "learner.mode=sync")) == []


@pytest.mark.parametrize(
    ("cores", "num_actors", "num_envs", "num_cpus"),
    [(1, 3, 16, 0.333), (2, 3, 16, 0.666), (3, 3, 16, 1), (5, 3, 16, 1), (8, 6, 8, 1), (12, 12, 4, 1), (200, 48, 1, 1)],
)
@pytest.mark.parametrize("row", ["atari_breakout_rtrl", "dmlab_watermaze_rtrl_m100", "procgen_chaser_tbptt_m5"])
def test_the_papers_rows_have_48_streams_and_updates_of_32_segments_on_any_machine(
    row: str, cores: int, num_actors: int, num_envs: int, num_cpus: float
):
    config = size(cores, f"experiment={row}")
    assert (config.fleet.num_actors, config.actors.num_envs, config.actors.num_cpus) == (num_actors, num_envs, num_cpus)
    assert num_actors * config.actors.num_cpus <= max(cores, 1)
    assert config.learner.batch_segments == 32
    assert config.learner.batch_segments % config.actors.streams == 0
    assert doubts(config) == []


def test_streams_are_spread_over_the_actors_that_the_user_asks_for():
    config = size(2, "experiment=atari_breakout_rtrl", "fleet.num_actors=2")
    assert (config.fleet.num_actors, config.actors.num_envs) == (2, 24)
    (said,) = doubts(config)
    assert said.startswith("an update takes 48 segments instead of learner.batch_segments=32")
    with pytest.raises(
        ConfigError, match=r"num_streams=48 .*num_actors=5: choose one of 1, 2, 3, 4, 6, .*48, or leave"
    ):
        size(2, "experiment=atari_breakout_rtrl", "fleet.num_actors=5")


def test_a_mode_that_could_never_accept_anything_is_refused():
    with pytest.raises(
        ConfigError, match=r"lag of one, so with learner\.max_lag=0 every contribution would be dropped"
    ):
        size(2, "learner.mode=lockstep", "learner.max_lag=0")


@pytest.mark.seconds
def test_every_default_is_free_of_doubt_and_has_room():
    for path in sorted((Path(conf.__file__).parent / "experiment").glob("*.yaml")):
        for cores in (1, 2, 7, 64):
            config = size(cores, f"experiment={path.stem}")
            assert doubts(config) == [], (path.stem, cores)
            assert config.fleet.num_actors is not None
            assert config.fleet.num_actors * config.actors.num_cpus <= cores, (path.stem, cores)


@pytest.mark.seconds
def test_what_is_doubtful_is_said_before_the_first_unroll(tmp_path: Path):
    words = ["experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=5", "actors.num_envs=4"]
    words += ["actors.unroll=3", "network.num_units=8", "total_steps=60", "logging=quiet"]
    events: list[str] = []
    config = load_train([*words, "learner.batch_segments=4", "learner.max_lag=1"])
    row = train(config, tmp_path, Sinks([], events.append), RunHooks())
    assert "5 actors and 4 segments per update" in events[0]
    assert (row["contributions_dropped"] or 0) > 0


@pytest.mark.parametrize(
    ("words", "cores", "num_actors", "num_cpus"),
    [
        (("actors.num_cpus=2",), 8, 4, 2),
        (("actors.num_cpus=2",), 1, 1, 1),
        (("actors.num_cpus=3",), 8, 2, 3),
        (("actors.num_cpus=0.5",), 8, 8, 0.5),
        (("actors.num_cpus=2", "fleet.num_streams=48", "actors.num_envs=16"), 4, 3, 1.333),
        (("actors.num_cpus=2", "fleet.num_streams=48", "actors.num_envs=16"), 6, 3, 2),
        (("actors.num_cpus=2", "fleet.num_actors=3"), 2, 3, 2),
    ],
)
def test_actors_that_take_more_than_a_core_are_fewer(
    words: tuple[str, ...], cores: int, num_actors: int, num_cpus: float
):
    config = size(cores, "env=tmaze", *words)
    assert (config.fleet.num_actors, config.actors.num_cpus) == (num_actors, num_cpus)


def test_a_part_of_an_actors_streams_without_any_is_one_line():
    assert size(8, "env=tmaze", "actors.num_envs=2", "actors.pipeline=2").actors.num_envs == 2
    with pytest.raises(ConfigError, match=r"actors\.pipeline=2 .* but 48 actors have 1 each: use fewer actors"):
        size(200, "experiment=atari_breakout_rtrl", "actors.pipeline=2")
