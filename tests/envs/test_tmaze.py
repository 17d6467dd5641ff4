"""The T-maze: a cue that is seen once, and a choice that depends on it."""

import numpy as np
import pytest

from conf.env_schema import EnvConfig, TMazeConfig
from envs.base import UnknownEnvironment, spawn_seeds
from envs.registry import make_env


def test_the_cue_is_seen_at_the_first_step_only_and_decides_the_reward():
    env = make_env(TMazeConfig(corridor=3), 50, 1)
    timestep = env.reset()
    cue, step, lengths = timestep.observation[:, 0].copy(), np.zeros(50, int), []
    assert set(cue) == {-1.0, 1.0}
    choose = np.random.default_rng(0)
    for _ in range(40):
        junction = timestep.observation[:, 2] == 1
        actions = choose.integers(0, 2, 50)
        timestep = env.step(actions)
        assert (timestep.terminated == junction).all()
        assert (timestep.reward == (junction & (2 * actions - 1 == cue))).all()
        lengths.append(step[junction] + 1)
        step = np.where(junction, 0, step + 1)
        cue = np.where(timestep.is_first, timestep.observation[:, 0], cue)
        assert not timestep.observation[~timestep.is_first, 0].any()
    assert {int(length) for length in lengths[-1]} == {4}  # only a stream's first corridor is shorter
    assert {int(length) for part in lengths[:3] for length in part} == {2, 3}


def test_the_state_goes_on_bit_for_bit():
    env, copy = make_env(TMazeConfig(corridor=2), 8, 1), make_env(TMazeConfig(corridor=2), 8, 5)
    env.reset()
    for _ in range(5):
        env.step(np.ones(8, np.int64))
    state = env.get_state()
    assert state is not None
    copy.set_state(state)
    for _ in range(20):
        ours, theirs = env.step(np.ones(8, np.int64)), copy.step(np.ones(8, np.int64))
        for a, b in zip(ours[:6], theirs[:6], strict=True):
            assert (a == b).all()


def test_bad_actions_are_refused():
    env = make_env(TMazeConfig(), 2, 1)
    env.reset()
    with pytest.raises(ValueError, match="expected 2 actions"):
        env.step(np.array([0, 2]))


def test_an_unknown_suite_lists_the_known_ones():
    with pytest.raises(UnknownEnvironment, match="unknown environment suite 'nes': expected one of atari"):
        make_env(EnvConfig(suite="nes", name="mario"), 1, 1)


def test_spawned_seeds_are_distinct_and_repeat():
    seeds = spawn_seeds(1, 1000)
    assert len(set(seeds)) == 1000
    assert seeds == spawn_seeds(1, 1000)
    assert not set(seeds) & set(spawn_seeds(2, 1000))
