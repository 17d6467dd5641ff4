"""A step in two halves, and the streams of an actor in several environments that are stepped one while the network looks at another."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.env_schema import (
    AtariConfig,
    CopyTaskConfig,
    DelayedMatchConfig,
    DMLab30Config,
    DMLabConfig,
    EnvConfig,
    GymConfig,
    MiniGridConfig,
    ProcgenConfig,
    TMazeConfig,
)
from conf.knobs import ConfigError
from envs import registry
from envs.actions import Discrete
from envs.base import EnvironmentFailure, Timestep, VectorEnv, spawn_seeds
from envs.dmlab.environment import DMLabEnv
from envs.dmlab.levels import DMLAB30, NEED_DATASET
from envs.dmlab.suite import DMLAB_30, ONE_LEVEL
from envs.finite import FiniteEnv
from envs.registry import make_env, make_parts
from envs.suite import Part, Suite
from envs.tmaze import TMaze

needs_procgen = pytest.mark.skipif(
    importlib.util.find_spec("procgen") is None, reason="procgen-mirror has no wheel for this Python"
)
CONFIGS: dict[str, EnvConfig] = {
    "atari": AtariConfig(max_frames=240, noop_max=8),
    "atari, two threads": AtariConfig(max_frames=240, noop_max=8, threads=2),
    "procgen": ProcgenConfig(name="bossfight", mode="easy", num_levels=0),
    "procgen, two threads": ProcgenConfig(name="bossfight", mode="easy", num_levels=0, threads=2),
    "gym": GymConfig(name="CartPole-v1"),
    "gym, in processes": GymConfig(name="CartPole-v1", asynchronous=True),
    "minigrid": MiniGridConfig(max_episode_steps=15),
    "tmaze": TMazeConfig(corridor=5),
    "delayed_match": DelayedMatchConfig(delay=4),
    "copy_task": CopyTaskConfig(length=3, delay=2),
}
configs = pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            config,
            id=name,
            marks=[
                *([needs_procgen] if "procgen" in name else []),
                *([pytest.mark.seconds] if "processes" in name else []),
            ],
        )
        for name, config in CONFIGS.items()
    ],
)


def choices(env: VectorEnv, steps: int) -> np.ndarray:
    assert isinstance(env.spec.actions, Discrete)
    return np.random.default_rng(0).integers(0, env.spec.actions.num_actions, (steps, env.num_envs))


def same(ours: Timestep, theirs: Timestep) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(one is other or (one is not None and other is not None and (one == other).all()) for one, other in pairs)


@configs
def test_two_environments_whose_steps_overlap_play_what_each_plays_by_itself(config: EnvConfig):
    overlapping, apart = ([make_env(config, 3, seed) for seed in (1, 2)] for _ in range(2))
    firsts = [[env.reset() for env in envs] for envs in (overlapping, apart)]
    assert all(map(same, *firsts))
    for actions in choices(apart[0], 60):
        for env in overlapping:
            env.begin(actions)
        for env, alone in zip(overlapping, apart, strict=True):
            assert same(env.finish(), alone.step(actions))
    for env in (*overlapping, *apart):
        env.close()


@configs
def test_an_environment_can_be_closed_while_it_takes_a_step(config: EnvConfig):
    env = make_env(config, 3, 1)
    env.reset()
    env.begin(choices(env, 1)[0])
    env.close()


@configs
def test_parts_have_seeds_of_their_own_and_one_stream_more_or_less(config: EnvConfig):
    parts = make_parts(config, 5, 7, 2)
    assert [part.num_envs for part in parts] == [3, 2]
    alone = [make_env(config, size, seed) for size, seed in zip((3, 2), spawn_seeds(7, 2), strict=True)]
    for part, expected in zip(parts, alone, strict=True):
        assert same(part.reset(), expected.reset())
        for actions in choices(part, 20):
            assert same(part.step(actions), expected.step(actions))
    for env in (*parts, *alone):
        env.close()


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_parts_as_were_asked_for_and_one_is_the_environment_itself(count: int):
    parts = make_parts(TMazeConfig(corridor=5), 3, 7, count)
    assert len(parts) == count
    if count == 1:
        assert same(parts[0].reset(), make_env(TMazeConfig(corridor=5), 3, 7).reset())


def test_a_part_without_a_stream_is_one_line():
    with pytest.raises(ConfigError, match=r"actors\.pipeline=4 needs a stream for each part, got actors\.num_envs=3"):
        make_parts(TMazeConfig(), 3, 1, 4)


def test_if_one_part_cannot_be_made_none_is_left_open(monkeypatch: pytest.MonkeyPatch):
    closed: list[int] = []

    class Counted(FiniteEnv):
        def close(self) -> None:
            closed.append(self.num_envs)
            super().close()

    def make(config: EnvConfig, num_envs: int, seed: int) -> VectorEnv:
        if num_envs == 1:
            raise EnvironmentFailure("no more of them")
        return TMaze(num_envs, seed, corridor=3)

    monkeypatch.setattr(registry, "find_suite", lambda name: Suite(TMazeConfig, make))
    monkeypatch.setattr(registry, "FiniteEnv", Counted)
    with pytest.raises(EnvironmentFailure, match="no more of them"):
        registry.make_parts(TMazeConfig(), 5, 1, 3)
    assert closed == [2, 2]


@needs_procgen
def test_games_of_procgen_play_in_threads_where_there_are_parts():
    """Without any, the whole step would be taken when it is begun."""
    asked: list[int] = []
    from envs import procgen

    opened = procgen._open

    def remember(**options: Any) -> Any:
        asked.append(options["num_threads"])
        return opened(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procgen, "_open", remember)
        for config, count in ((ProcgenConfig(), 1), (ProcgenConfig(), 2), (ProcgenConfig(threads=3), 2)):
            for part in make_parts(config, 2, 1, count):
                part.close()
    assert asked == [0, 1, 1, 3, 3]


def test_parts_of_dmlab_30_share_the_levels_and_the_spare_engines_of_one_environment(standin: Callable[..., None]):
    def levels(env: VectorEnv) -> list[int]:
        assert isinstance(env, DMLabEnv)
        return [env._supervisor._schedule.plan(stream).level for stream in range(env.num_envs)]

    names = [level.name for level in DMLAB30 if level.name not in NEED_DATASET][:10]
    config = DMLab30Config(levels=names, spare_engines=3)
    whole = DMLAB_30.make(config, 10, 5)
    assert DMLAB_30.make_part is not None
    parts = [DMLAB_30.make_part(config, 5, 5, Part(number, 2, 5 * number)) for number in range(2)]
    assert [level for part in parts for level in levels(part)] == levels(whole)
    assert sorted(levels(whole)) == list(range(10))
    assert [part._supervisor._num_spares for part in parts if isinstance(part, DMLabEnv)] == [2, 1]


def test_parts_of_dmlab_play_episodes_of_their_own(standin: Callable[..., None]):
    assert ONE_LEVEL.make_part is not None
    parts = [ONE_LEVEL.make_part(DMLabConfig(), 2, 5, Part(number, 2, 2 * number)) for number in range(2)]
    drawn = [part._supervisor._schedule._seeds.draw() for part in parts if isinstance(part, DMLabEnv)]
    assert len(set(drawn)) == 2


@pytest.mark.seconds
def test_games_in_processes_play_after_they_have_been_told_and_nobody_waits_for_them(tmp_path: Path):
    os.mkfifo(tmp_path / "go")
    env = make_env(GymConfig(name="own_envs:Held-v0", kwargs={"folder": str(tmp_path)}, asynchronous=True), 1, 1)
    env.reset()
    for _ in range(2):
        env.begin(np.zeros(1, np.int64))  # comes back, although the game cannot go on
        (tmp_path / "go").write_bytes(b"")
        assert env.finish().reward.tolist() == [1.0]
    env.close()


@pytest.mark.seconds
def test_engines_of_dmlab_take_their_steps_while_nobody_waits(standin: Callable[..., None]):
    standin(steps=[4, 9])
    overlapping, apart = (make_parts(DMLabConfig(wait_for_reset=True, width=16, height=16), 4, 3, 2) for _ in range(2))
    for env, alone in zip(overlapping, apart, strict=True):
        assert same(env.reset(), alone.reset())
    for _ in range(25):
        for env in overlapping:
            env.begin(np.zeros(2, np.int64))
        for env, alone in zip(overlapping, apart, strict=True):
            assert same(env.finish(), alone.step(np.zeros(2, np.int64)))
    for env in (*overlapping, *apart):
        env.close()


def test_a_step_that_nobody_would_call_is_an_error():
    class Halves(TMaze):
        def finish(self) -> Timestep:
            return super().finish()

    class Whole(TMaze):
        def step(self, actions: np.ndarray) -> Timestep:
            return super().step(actions)._replace(reward=np.full(self.num_envs, 7, np.float32))

    env = Whole(2, 1, corridor=3)
    env.reset()
    env.begin(np.zeros(2, np.int64))
    assert env.finish().reward.tolist() == [7, 7]
    with pytest.raises(
        TypeError, match="Scaled overrides step, but inherits begin and finish, which actors call: override finish"
    ):

        class Scaled(Halves):
            def step(self, actions: np.ndarray) -> Timestep:
                return super().step(actions)
