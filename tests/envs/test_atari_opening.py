"""Openings of Atari games, against the official wrappers written as plainly as possible on ALE's raw frames."""

from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from conf.env_schema import AtariConfig
from envs.atari_opening import presses
from envs.base import Timestep, spawn_seeds
from envs.registry import make_env

SEED = 7


class OfficialWrappers:
    """EpisodicLifeEnv below FireResetEnv below FrameStack, for one stream: ``reset`` and ``step`` as the official code has them."""

    def __init__(self, game: str, seed: int) -> None:
        self.game = AtariVectorEnv(
            game, 1, num_threads=1, stack_num=1, autoreset_mode="SameStep", reward_clipping=False, use_fire_reset=False
        )
        self.names = [action.name for action in self.game.ale.get_action_set()]
        observation, info = self.game.reset(seed=np.array([seed]))
        self.start, self.lives = observation[0, 0], int(info["lives"][0])
        self.game_over = True
        self.frames: deque[np.ndarray] = deque(maxlen=4)

    def raw(self, action: int) -> tuple[np.ndarray, float, bool]:
        """One action for four frames. After a game the next one has already been reset, with its no-ops."""
        observation, reward, terminated, truncated, info = self.game.step(np.array([action]))
        self.game_over = bool(terminated[0] or truncated[0])
        lives = int(info["lives"][0])
        done = self.game_over or 0 < lives < self.lives
        self.lives = lives
        if self.game_over:
            self.start = observation[0, 0]
        return observation[0, 0], float(reward[0]), done

    def reset(self) -> tuple[np.ndarray, float]:
        """Also what the presses earned, which the official code throws away."""
        fire = [1, 2] if "FIRE" in self.names else []
        frame, earned = self.start, 0.0
        for action in fire if self.game_over else [0, *fire]:
            frame, reward, done = self.raw(action)
            earned += reward
            assert not done, "choose another seed"
        self.frames.extend([frame] * 4)
        return np.stack(self.frames), earned

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        frame, reward, done = self.raw(action)
        self.frames.append(frame)
        return np.stack(self.frames), reward, done


@pytest.mark.seconds
@pytest.mark.parametrize("game", ["breakout", "qbert", "ms_pacman", "gravitar", "riverraid"])
def test_an_agent_sees_what_the_official_wrappers_show_it(game: str):
    """Every observation that a decision is made on, every reward and every end; no point of a game is lost."""
    ours, official = make_env(AtariConfig(name=game), 1, SEED), OfficialWrappers(game, spawn_seeds(SEED, 1)[0])
    choose = np.random.default_rng(1)
    now = ours.reset()
    (stack, unpaid), begins = official.reset(), True
    episodes, paid_later = 0, 0.0
    while episodes < 12:
        action = int(choose.integers(len(ours.spec.action_meanings)))
        before, now = now, ours.step(np.array([action]))
        if not now.valid[0]:
            assert begins
            continue
        assert (before.observation[0] == stack).all()
        assert bool(before.is_first[0]) is begins
        stack, reward, done = official.step(action)
        assert now.reward[0] == reward + unpaid
        assert bool(now.terminated[0]) is done
        paid_later += unpaid
        unpaid, begins = 0.0, done
        if done:
            episodes += 1
            assert bool(now.game_over[0]) is official.game_over
            stack, unpaid = official.reset()
    assert paid_later or game != "riverraid", "no press earned anything: choose another seed"
    ours.close()
    official.game.close()


def lives_lost(timesteps: list[Timestep]) -> np.ndarray:
    return np.sum([t.life_lost for t in timesteps if t.life_lost is not None], axis=0)


@pytest.mark.seconds
@pytest.mark.parametrize("episodic_life", [True, False])
def test_a_policy_that_does_nothing_loses_all_its_lives(episodic_life: bool):
    env = make_env(AtariConfig(name="breakout", episodic_life=episodic_life), 2, 1)
    timesteps = [env.reset()]
    for _ in range(450):
        timesteps.append(env.step(np.zeros(2, np.int64)))
    env.close()
    assert (np.sum([t.game_over for t in timesteps[1:]], axis=0) >= 1).all()
    lost = lives_lost(timesteps[1:])
    assert (lost >= 4).all() if episodic_life else not lost.any()
    for before, after in pairwise(timesteps[1:]):
        assert not (after.terminated | after.truncated)[~after.valid].any()
        if not episodic_life:  # the presses after a lost life lie in the middle of an episode
            assert not after.is_first[~after.valid & ~before.is_first].any()


@pytest.mark.seconds
def test_ales_own_opening_leaves_it_waiting_for_ever():
    env = make_env(AtariConfig(name="breakout", opening="ale"), 2, 1)
    env.reset()
    timesteps = [env.step(np.zeros(2, np.int64)) for _ in range(450)]
    env.close()
    assert (lives_lost(timesteps) == 1).all()
    assert not any(t.game_over.any() for t in timesteps)
    assert all(t.valid.all() for t in timesteps)


def test_only_games_with_fire_are_opened_by_buttons():
    assert presses(["noop", "fire", "right", "left"], fire=True) == (0, 1, 2)
    assert presses(["noop", "fire", "right", "left"], fire=False) == (0,)
    assert presses(["noop", "up", "right", "left"], fire=True) == (0,)
    assert presses(["noop", "fire"], fire=True) == (0, 1)


def test_a_game_that_is_cut_off_while_it_is_opened_is_still_counted():
    """Two presses open a game of one step more: the first game is cut off by the agent, one of two steps by a press."""
    env = make_env(AtariConfig(name="breakout", max_frames=8, noop_max=1), 1, 1)
    env.reset()
    first, second = env.step(np.array([0])), env.step(np.array([0]))
    env.close()
    assert not first.valid[0]
    assert second.truncated[0]
    assert second.valid[0]
    assert second.game_over[0]
    assert second.is_first[0]
