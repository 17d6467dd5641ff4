"""Tasks that need memory, with a known optimum."""

import numpy as np
import pytest

from conf.env_schema import DelayedMatchConfig, MiniGridConfig
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


def test_minigrid_plays_by_short_and_by_full_name():
    for name in ("MemoryS7", "MiniGrid-MemoryS7-v0"):
        env = make_env(MiniGridConfig(name=name), 2, 1)
        assert env.spec.name == "minigrid/MiniGrid-MemoryS7-v0"
        assert env.reset().observation.shape == (2, 7, 7, 3)
        env.close()


def test_an_unknown_minigrid_task_is_one_line():
    with pytest.raises(
        UnknownEnvironment, match="gymnasium has no environment 'MiniGrid-MemoryS8-v0': did you mean MiniGrid-Memory"
    ):
        make_env(MiniGridConfig(name="MemoryS8"), 2, 1)
