"""ProcGen from its real C++ batch: every game and mode, boundaries, level splits, exact resume."""

import importlib.util
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from conf.env_schema import ProcgenConfig
from conf.knobs import ConfigError
from conf.load import load_train
from envs.base import MissingDependency, UnknownEnvironment, VectorEnv
from envs.procgen import MODES, SUITE, TIME_LIMITS, ProcgenEnv
from envs.registry import make_env

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("procgen") is None, reason="procgen-mirror has no wheel for this Python"
)


def play(env: VectorEnv, steps: int, seed: int = 0):
    choose = np.random.default_rng(seed)
    return [env.step(choose.integers(0, 15, env.num_envs)) for _ in range(steps)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_game_plays_in_every_mode_that_it_has(mode: str):
    for game in sorted(MODES[mode]):
        env = make_env(ProcgenConfig(name=game, mode=mode), 2, 1)
        first = env.reset()
        assert (first.observation.shape, first.observation.dtype) == ((2, 64, 64, 3), np.uint8)
        timestep = play(env, 5)[-1]
        assert timestep.observation.any(), game
        env.close()


@pytest.mark.seconds
def test_an_episode_that_reaches_the_time_limit_is_cut_off_and_any_other_end_is_real():
    env = make_env(ProcgenConfig(name="leaper", mode="easy", num_levels=0), 4, 3)
    env.reset()
    length, cut, ended = np.zeros(4, int), 0, 0
    before = None
    for step in range(1100):
        actions = np.full(4, 4) if step < 520 else np.random.default_rng(step).integers(0, 15, 4)
        timestep = env.step(actions)
        length += 1
        for b in np.flatnonzero(timestep.is_first):
            assert timestep.truncated[b] == (length[b] == TIME_LIMITS["leaper"])
            assert timestep.terminated[b] != timestep.truncated[b]
            if timestep.truncated[b]:
                cut += 1
                assert before is not None
                assert timestep.final_observation is not None
                assert (timestep.final_observation[b] == before.observation[b]).all()
            ended += bool(timestep.terminated[b])
            length[b] = 0
        before = timestep
    assert cut >= 4
    assert ended >= 1


def time_limit_in(state: bytes) -> int:
    """Read from the library's serialisation: integers of 4 bytes, and texts that begin with their length."""
    at = 0

    def integer() -> int:
        nonlocal at
        at += 4
        return struct.unpack_from("<i", state, at - 4)[0]

    def text() -> None:
        nonlocal at
        length = integer()
        at += length

    integer(), text()  # format, game
    for _ in range(17):  # options, level range
        integer()
    for _ in range(2):  # random generators
        integer(), text()
    for _ in range(4):  # reward, done, level complete, action
        integer()
    return integer()


@pytest.mark.seconds
@pytest.mark.parametrize("mode", MODES)
def test_the_time_limits_are_those_of_the_library(mode: str):
    for game in sorted(MODES[mode]):
        env = ProcgenEnv(ProcgenConfig(name=game, mode=mode), 1, 1)
        state = env.get_state()
        assert state is not None
        assert time_limit_in(state["games"]["0"].tobytes()) == env.time_limit, game
        env.close()


def test_a_level_that_is_won_by_its_last_step_is_not_cut_off():
    """Stands for a game whose last step wins: the library's report is changed, all else is real."""
    env = ProcgenEnv(ProcgenConfig(name="leaper", mode="easy", num_levels=0), 2, 3)
    env.reset()
    for _ in range(TIME_LIMITS["leaper"] - 1):
        env.step(np.full(2, 4))
    env._envs.get_info = lambda: [{"prev_level_complete": 1}, {"prev_level_complete": 0}]
    timestep = env.step(np.full(2, 4))
    assert timestep.terminated.tolist() == [True, False]
    assert timestep.truncated.tolist() == [False, True]


@pytest.mark.parametrize("other", [{"name": "maze"}, {"num_levels": 10}, {"mode": "easy"}])
def test_a_state_of_another_game_or_level_range_is_refused(other: dict[str, Any]):
    saved, env = make_env(ProcgenConfig(), 2, 1), make_env(ProcgenConfig(**other), 2, 1)
    saved.reset()
    state = saved.get_state()
    assert state is not None
    with pytest.raises(ConfigError, match="the saved games are of streams 2, game chaser, mode hard"):
        env.set_state(state)


@pytest.mark.parametrize("threads", [0, 2])
def test_threads_change_nothing_but_the_speed(threads: int):
    one, other = make_env(ProcgenConfig(threads=1), 4, 1), make_env(ProcgenConfig(threads=threads), 4, 1)
    assert (one.reset().observation == other.reset().observation).all()
    for ours, theirs in zip(play(one, 30), play(other, 30), strict=True):
        assert (ours.observation == theirs.observation).all()


def test_the_state_goes_on_bit_for_bit():
    config = ProcgenConfig(name="coinrun", mode="easy")
    env, copy = make_env(config, 3, 1), make_env(config, 3, 99)
    env.reset()
    play(env, 150)
    state = env.get_state()
    assert state is not None
    copy.set_state(state)
    for ours, theirs in zip(play(env, 300, seed=5), play(copy, 300, seed=5), strict=True):
        for a, b in zip(ours[:6], theirs[:6], strict=True):
            assert (a == b).all()


def test_the_same_seed_repeats_and_streams_and_seeds_differ():
    def pictures(seed: int) -> np.ndarray:
        env = make_env(ProcgenConfig(), 3, seed)
        return np.stack([env.reset().observation, *(t.observation for t in play(env, 20))])

    assert (pictures(1) == pictures(1)).all()
    assert (pictures(1) != pictures(2)).any()
    assert (pictures(1)[:, 0] != pictures(1)[:, 1]).any()


@pytest.mark.seconds
def test_levels_come_from_the_range_and_the_test_splits_are_disjoint_from_training():
    splits = SUITE.protocol(load_train(["experiment=procgen_chaser_rtrl_m50"]).env).splits
    assert list(splits) == ["train", "test 1000", "test 1200", "test 1400"]
    seen: dict[str, set[int]] = {}
    for name, config in splits.items():
        assert isinstance(config, ProcgenConfig)
        env = ProcgenEnv(config, 32, 1)
        env.reset()
        seen[name] = set(env.level_seeds())
        for timestep in play(env, 100):
            if timestep.is_first.any():
                seen[name] |= set(env.level_seeds())
    assert max(seen["train"]) < 500
    for first in (1000, 1200, 1400):
        assert all(first <= level < first + 200 for level in seen[f"test {first}"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ProcgenConfig(name="chasr"), "unknown ProcGen game 'chasr': did you mean chaser"),
        (
            ProcgenConfig(name="coinrun", mode="memory"),
            "coinrun has no mode 'memory': expected env.mode to be one of easy, hard",
        ),
        (ProcgenConfig(num_levels=0, start_level=5), "env.num_levels=0 is all levels there are"),
        (ProcgenConfig(start_level=2**31 - 100), "env.start_level=2147483548 with env.num_levels=500 goes beyond"),
    ],
)
def test_what_does_not_exist_is_one_line(config: ProcgenConfig, message: str):
    with pytest.raises(UnknownEnvironment, match=message):
        make_env(config, 1, 1)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ((3, 12, 1), "needs procgen-mirror: pip install --no-deps -r requirements-procgen.lock"),
        ((3, 13, 0), "wheels for Python 3.11 and 3.12, but not for this one (3.13)"),
    ],
)
def test_without_the_library_one_line_says_how_to_get_it(
    python: tuple[int, int, int], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(sys.modules, "procgen.env", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", python)
    with pytest.raises(MissingDependency) as refused:
        make_env(ProcgenConfig(), 1, 1)
    assert message in str(refused.value)


def test_a_system_without_the_libraries_of_a_desktop_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    def cannot_load(**_: Any) -> None:
        raise OSError("cannot load library 'libenv.so': libGL.so.1: cannot open shared object file")

    make_env(ProcgenConfig(), 1, 1).close()
    monkeypatch.setattr(sys.modules["procgen.env"], "ProcgenGym3Env", cannot_load)
    with pytest.raises(MissingDependency, match=r"libGL\.so\.1.*apt-get install libgl1 libglib2\.0-0"):
        make_env(ProcgenConfig(), 1, 1)


@pytest.mark.seconds
def test_nothing_of_the_old_gym_is_imported_and_the_package_can_still_be_asked_for():
    program = (
        "import importlib.util, sys\n"
        "from conf.env_schema import ProcgenConfig\n"
        "from envs.registry import make_env\n"
        "make_env(ProcgenConfig(), 1, 1).reset()\n"
        "print('gym' in sys.modules, importlib.util.find_spec('procgen') is None)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("False False")
