"""The T-maze: a cue that is seen once, and a choice that depends on it."""

import numpy as np
import pytest

from conf.env_schema import EnvConfig, TMazeConfig
from envs.base import UnknownEnvironment, spawn_seeds
from envs.registry import make_env


def test_the_cue_is_seen_at_the_first_step_only_and_decides_the_reward():
    env = make_env(TMazeConfig(corridor=3), 50, 1)
    timestep = env.reset()
    for choice in (0, 1):
        cue = timestep.observation[:, 0]
        assert set(cue) == {-1.0, 1.0}
        for step in range(4):
            assert (timestep.is_first == (step == 0)).all()
            assert (timestep.observation[:, 2] == (step == 3)).all()
            if step:
                assert not timestep.observation[:, 0].any()
            timestep = env.step(np.full(50, choice))
            assert timestep.terminated.all() == (step == 3)
        assert (timestep.reward == np.where((2 * choice - 1) == cue, 1.0, -1.0)).all()


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
