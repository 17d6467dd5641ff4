"""A number that is not finite is named at the edge, for every suite."""

from collections import deque

import numpy as np
import pytest
from counting_env import CountingEnv

from conf.env_schema import ENV_CONFIGS
from envs.base import EnvironmentFailure, Timestep, VectorEnv
from envs.finite import FiniteEnv
from envs.registry import make_env


class Spoilt(CountingEnv):
    """Real in everything but the numbers that it is told to spoil."""

    spoil: str = ""

    def step(self, actions: np.ndarray) -> Timestep:
        now = super().step(actions)
        if self.spoil == "final_observation" and now.final_observation is not None:
            now.final_observation[now.truncated] = np.nan
        elif self.spoil in ("observation", "reward"):
            getattr(now, self.spoil)[2] = -np.inf
        return now


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("observation", "counting/counting gave stream 2 an observation that is not finite: -inf at element 0"),
        ("reward", "counting/counting gave stream 2 a reward that is not finite: -inf"),
        (
            "final_observation",
            "counting/counting gave stream . a final observation that is not finite: nan at element 0",
        ),
    ],
)
def test_a_bad_number_is_named_with_its_stream(spoil: str, message: str):
    inner = Spoilt(4, 1)
    env = FiniteEnv(inner)
    timesteps = [env.reset(), *(env.step(np.zeros(4, np.int64)) for _ in range(3))]
    assert len(timesteps) == 4
    inner.spoil = spoil
    with pytest.raises(EnvironmentFailure, match=message):
        deque((env.step(np.zeros(4, np.int64)) for _ in range(30)), maxlen=0)


def test_rows_that_nobody_reads_may_hold_anything():
    inner = CountingEnv(4, 1)
    env = FiniteEnv(inner)
    now = env.reset()._replace(final_observation=np.full((4, 3), np.nan, np.float32))
    assert env._checked(now) is now


@pytest.mark.parametrize("suite", ["tmaze", "copy_task", "delayed_match", "gym", "minigrid", "atari"])
def test_every_suite_is_checked(suite: str):
    env = make_env(ENV_CONFIGS[suite](), 1, 1)
    assert isinstance(env, FiniteEnv)
    env.close()


def test_nothing_that_an_environment_can_do_is_lost_inside():
    able = {name for name, member in vars(VectorEnv).items() if callable(member) and not name.startswith("_")}
    assert able <= vars(FiniteEnv).keys()
