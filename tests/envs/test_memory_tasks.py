"""Tasks that need memory, with a known optimum."""

from typing import Any

import numpy as np
import pytest

from conf.env_schema import CopyTaskConfig, DelayedMatchConfig, MiniGridConfig
from envs import minigrid_tasks
from envs.base import UnknownEnvironment
from envs.registry import make_env


@pytest.mark.parametrize(("remembers", "expected"), [(True, 1.0), (False, 0.5)])
def test_delayed_match_pays_one_with_memory_and_half_of_that_without(remembers: bool, expected: float):
    env = make_env(DelayedMatchConfig(delay=6), 200, 1)
    timestep = env.reset()
    sample, returns = np.zeros(200, int), []
    for _ in range(80):
        symbol = timestep.observation[:, :4].argmax(1)
        sample = np.where(timestep.observation[:, 4] == 1, symbol, sample)
        answer = (symbol == sample).astype(np.int64) if remembers else np.ones(200, np.int64)
        timestep = env.step(answer)
        returns.append(timestep.reward[timestep.terminated])
    assert np.concatenate(returns).mean() == pytest.approx(expected, abs=0 if remembers else 0.03)


@pytest.mark.parametrize(("delay", "length"), [(0, 4), (3, 4), (0, 1)])
def test_the_copy_task_pays_the_share_of_bits_repeated_and_half_of_them_to_a_blind_player(delay: int, length: int):
    players = {"remembers": 1.0, "all zero": 0.5, "all one": 0.5}
    for player, expected in players.items():
        env = make_env(CopyTaskConfig(length=length, delay=delay), 300, 1)
        timestep = env.reset()
        seen: list[list[int]] = [[] for _ in range(300)]
        running, returns, steps, lengths = np.zeros(300), [], np.zeros(300, int), []
        for _ in range(4 * (2 * length + delay)):
            bit, shown, asked = timestep.observation.T
            assert not (shown.astype(bool) & asked.astype(bool)).any()
            assert (bit[shown == 0] == 0).all()
            for i in np.flatnonzero(shown):
                seen[i].append(int(bit[i] > 0))
            answers = np.full(300, int(player == "all one"))
            if player == "remembers":
                for i in np.flatnonzero(asked):
                    answers[i] = seen[i].pop(0)
            timestep = env.step(answers)
            running, steps = running + timestep.reward, steps + 1
            returns.append(running[timestep.terminated])
            lengths.append(steps[timestep.terminated])
            running, steps = running * ~timestep.terminated, steps * ~timestep.terminated
        assert np.concatenate(returns).mean() == pytest.approx(expected, abs=1e-6 if expected == 1.0 else 0.03)
        assert set(lengths[-1]) == {2 * length + delay}


def test_minigrid_plays_by_short_and_by_full_name():
    for name in ("MemoryS7", "MiniGrid-MemoryS7-v0"):
        env = make_env(MiniGridConfig(name=name), 2, 1)
        assert env.spec.name == "minigrid/MiniGrid-MemoryS7-v0"
        assert env.spec.observation_shape == (7 * 7 * 21,)
        env.close()


def test_a_minigrid_window_is_one_object_one_colour_and_one_state_per_cell():
    env = minigrid_tasks.make(MiniGridConfig(max_episode_steps=3), 2, 1)  # bare, to see what is inside
    env.reset()
    timesteps = [env.step(np.zeros(2, np.int64)) for _ in range(3)]
    final = timesteps[-1].final_observation
    assert final is not None
    inner: Any = env
    raw = np.stack([task.unwrapped.gen_obs()["image"] for task in inner._envs.envs])
    for observation in (timesteps[-1].observation, final):
        cells = observation.reshape(2, 7, 7, 21)
        for part in (cells[..., :11], cells[..., 11:17], cells[..., 17:]):
            assert (part.sum(-1) == 1).all()
    shown = timesteps[-1].observation.reshape(2, 7, 7, 21)
    assert (shown[..., :11].argmax(-1) == raw[..., 0]).all()
    assert (shown[..., 11:17].argmax(-1) == raw[..., 1]).all()
    assert (shown[..., 17:].argmax(-1) == raw[..., 2]).all()


def test_an_unknown_minigrid_task_is_one_line():
    with pytest.raises(
        UnknownEnvironment, match="gymnasium has no environment 'MiniGrid-MemoryS8-v0': did you mean MiniGrid-Memory"
    ):
        make_env(MiniGridConfig(name="MemoryS8"), 2, 1)
