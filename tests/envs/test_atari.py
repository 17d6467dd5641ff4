"""Atari from real ALE frames: boundaries, lives, truncation, seeds, names."""

from itertools import pairwise

import numpy as np
import pytest

from conf.env_schema import AtariConfig
from envs.atari import game_id, games
from envs.base import UnknownEnvironment
from envs.registry import make_env


def play(config: AtariConfig, steps: int, seed: int = 1, num_envs: int = 3):
    """Timesteps of a random policy, the first from ``reset``, and the actions between them."""
    env = make_env(config, num_envs, seed)
    choose = np.random.default_rng(0)
    timesteps = [env.reset()]
    for _ in range(steps):
        timesteps.append(env.step(choose.integers(0, env.spec.actions.num_actions, num_envs)))  # pyright: ignore[reportAttributeAccessIssue]
    env.close()
    return timesteps


@pytest.mark.seconds
def test_the_default_is_the_papers_preprocessing():
    env = make_env(AtariConfig(), 2, 1)
    timestep = env.reset()
    assert env.spec.observation_shape == (4, 84, 84)
    assert (timestep.observation.shape, timestep.observation.dtype) == ((2, 4, 84, 84), np.uint8)
    assert env.spec.action_repeat == 4
    assert env.spec.actions.num_actions == 4  # pyright: ignore[reportAttributeAccessIssue]
    assert timestep.is_first.all()
    assert not timestep.valid.any()
    assert env.render(0).shape == (168, 168, 3)
    env.close()


@pytest.mark.seconds
def test_within_an_episode_the_stack_moves_on_by_one_frame():
    timesteps = play(AtariConfig(), 120)
    for before, after in pairwise(timesteps[3:]):
        goes_on = ~after.is_first
        assert (after.observation[goes_on, :3] == before.observation[goes_on, 1:]).all()


@pytest.mark.seconds
def test_a_lost_life_ends_the_learners_episode_but_not_the_game():
    timesteps = play(AtariConfig(), 700)
    lost = sum(int(t.life_lost.sum()) for t in timesteps if t.life_lost is not None)
    over = sum(int((t.terminated & ~t.life_lost).sum()) for t in timesteps if t.life_lost is not None)
    assert 3 <= over < lost <= 4 * (over + 3)  # five lives: four losses and the end
    for t in timesteps[1:]:
        assert (t.is_first == (t.terminated | t.truncated))[t.valid].all()
        assert t.life_lost is not None
        assert not (t.life_lost & ~t.terminated).any()


@pytest.mark.seconds
def test_without_episodic_lives_only_games_end():
    timesteps = play(AtariConfig(episodic_life=False), 700)
    assert sum(int(t.terminated.sum()) for t in timesteps) >= 3
    assert not any(t.life_lost.any() for t in timesteps if t.life_lost is not None)


@pytest.mark.seconds
def test_a_game_that_is_cut_off_shows_its_own_last_frames_beside_the_next_games_first():
    timesteps = play(AtariConfig(max_frames=80, noop_max=0, episodic_life=False), 60)
    cut = 0
    for before, after in pairwise(timesteps):
        for b in np.flatnonzero(after.truncated):
            cut += 1
            assert after.final_observation is not None
            assert (after.final_observation[b, :3] == before.observation[b, 1:]).all()
            assert (after.observation[b] != after.final_observation[b]).any()
            assert not after.terminated[b]
    assert cut >= 6


@pytest.mark.seconds
def test_rewards_are_raw():
    rewards = np.concatenate([t.reward for t in play(AtariConfig(name="qbert"), 400)])
    assert rewards.max() >= 25


@pytest.mark.seconds
def test_the_same_seed_repeats_and_streams_differ():
    first, again, other = (play(AtariConfig(), 60, seed) for seed in (1, 1, 2))
    assert all((a.observation == b.observation).all() for a, b in zip(first, again, strict=True))
    assert any((a.observation != b.observation).any() for a, b in zip(first, other, strict=True))
    assert any((t.observation[0] != t.observation[1]).any() for t in first)


@pytest.mark.slow
@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.soak)])
def test_every_game_of_ale_plays_by_name(every: int):
    assert len(games()) == 104
    for game in games()[::every]:
        timesteps = play(AtariConfig(name=game), 2, num_envs=1)
        assert timesteps[-1].observation.shape == (1, 4, 84, 84), game


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("ms_pacman", "ms_pacman"), ("MsPacman", "ms_pacman"), ("Qbert", "qbert"), ("BREAKOUT", "breakout")],
)
def test_names_are_forgiving_about_case_and_underscores(typed: str, meant: str):
    assert game_id(typed) == meant


def test_games_for_two_are_refused_instead_of_ending_the_process():
    with pytest.raises(UnknownEnvironment, match="unknown Atari game 'combat'"):
        game_id("combat")


def test_an_unknown_game_is_one_line_with_a_guess():
    with pytest.raises(UnknownEnvironment, match="unknown Atari game 'brekout': did you mean breakout") as failure:
        make_env(AtariConfig(name="brekout"), 1, 1)
    assert "\n" not in str(failure.value)
