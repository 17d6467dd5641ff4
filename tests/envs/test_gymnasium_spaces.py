"""What of gymnasium's spaces can be read and chosen, number by number."""

from typing import Any

import numpy as np
import pytest
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, OneOf, Sequence, Text, Tuple
from own_envs import OBSERVATIONS

from conf.env_schema import GymConfig
from envs import actions
from envs.base import UnknownEnvironment
from envs.gymnasium_spaces import action_writer
from envs.registry import make_env

TRUTH: Any = np.bool_
"""The library takes it; its annotation knows numbers only."""
BYTE = 1 / 255
READ: dict[str, tuple[str, list[float], list[float]]] = {
    "discrete": ("vector", [1, 0], [0, 1]),
    "multi-discrete": ("vector", [0, 0, 1, 1, 0], [0, 0, 1, 0, 1]),
    "multi-binary": ("vector", [1, 0, 0, 1], [1, 1, 0, 1]),
    "dict": ("vector", [0.5, -1, 0, 0, 1, 0, 9 * BYTE, 0], [0.5, 1, 0, 0, 1, 0, 9 * BYTE, 255 * BYTE]),
    "tuple": ("vector", [0, 1, -0.5], [0, 1, 0.5]),
    "float64": ("vector", [1, -1], [1, 1]),
    "truths": ("HWC", [0], [255]),
    "grey truths": ("HWC", [0], [255]),
    "float picture": ("HWC", [0], [1]),
    "unbounded picture": ("HWC", [0], [1]),
}

NESTED = ("dict", "tuple")
"""These come from other processes in pieces."""


@pytest.mark.parametrize(
    ("observation", "asynchronous"),
    [*((name, False) for name in READ), *(pytest.param(n, True, marks=pytest.mark.slow) for n in NESTED)],
)
def test_observations_of_every_space_are_read(observation: str, asynchronous: bool):
    layout, *values = READ[observation]
    kwargs = {"observation": observation}
    env = make_env(GymConfig(name="own_envs:Guess-v0", kwargs=kwargs, asynchronous=asynchronous), 4, 1)
    assert env.spec.layout == layout
    seen = {tuple(np.unique(row)) if layout != "vector" else tuple(row) for row in env.reset().observation}
    for _ in range(6):
        now = env.step(env.spec.actions.zeros(4))
        assert now.observation.shape == (4, *env.spec.observation_shape)
        assert now.observation.dtype == env.spec.observation_dtype
        seen |= {tuple(np.unique(row)) if layout != "vector" else tuple(row) for row in now.observation}
    env.close()
    np.testing.assert_allclose(sorted(seen), sorted(map(tuple, values)), atol=1e-6)


def test_every_space_of_the_stand_in_is_read():
    assert READ.keys() == OBSERVATIONS.keys()


@pytest.mark.parametrize(
    ("space", "chosen", "got"),
    [
        (Discrete(3, start=-1), [0, 2], [-1, 1]),
        (MultiDiscrete([3, 2], start=[1, 0]), [[0, 1], [2, 0]], [[1, 1], [3, 0]]),
        (MultiDiscrete(np.array([[2], [4]])), [[1, 3], [0, 0]], [[[1], [3]], [[0], [0]]]),
        (MultiBinary((2, 1)), [[1, 0], [1, 1]], [[[1], [0]], [[1], [1]]]),
        (Box(-2, 2, (1,)), [[-1], [0.5]], [[-2], [1]]),
        (Box(0, 0.1, (1,), np.float64), [[-1], [0]], [[0], [0.05]]),
        (Box(0, 1000, (1,)), [[-3], [7]], [[0], [1000]]),
        (Box(np.array([0, -5]), np.array([1, 5]), dtype=np.float64), [[0, 0.2], [1, -1]], [[0.5, 1], [1, -5]]),
        (Box(0, 255, (1,), np.uint8), [[1], [-0.5]], [[255], [64]]),
        (Box(3, np.inf, (1,)), [[-1], [2]], [[3], [6]]),
        (Box(3, np.finfo(np.float32).max, (1,)), [[-1.5], [2]], [[3], [6]]),
        (Box(-np.inf, 3, (1,)), [[1.5], [-2]], [[3], [0]]),
        (Box(-np.inf, np.inf, (1,)), [[-7], [2]], [[-7], [2]]),
        (Box(0, 1, ()), [[-1], [0]], [0, 0.5]),
    ],
)
def test_actions_of_every_space_are_written(space: Space, chosen: list, got: list):
    spec, write = action_writer("Foo-v0", space)
    sent = np.array(chosen, np.float32 if isinstance(spec, actions.Continuous) else np.int64)
    assert spec.zeros(2).shape == sent.shape
    assert spec.zeros(2).dtype == sent.dtype
    written = write(sent)
    np.testing.assert_allclose(written, got, rtol=1e-6)
    assert all(space.contains(np.asarray(action)) for action in written)


def test_actions_are_captioned_in_the_environments_own_unit():
    spec, _ = action_writer("Foo-v0", Box(0, 1000, (2,)))
    assert spec.caption(np.array([0.0, 9.0]), ()) == "+500 +1e+03"
    assert actions.MultiDiscrete((2, 3)).caption(np.array([1, 2]), ()) == "1 2"
    assert actions.Discrete(2).caption(np.array(1), ("left", "right")) == "right"


@pytest.mark.parametrize(
    ("what", "space", "message"),
    [
        (
            "observation",
            Text(5, charset="ab"),
            r"has observations Text\(1, 5, charset=ab\), expected boxes and choices",
        ),
        ("observation", Dict(a=Sequence(Discrete(2))), r"has observations Dict\('a': Sequence\(Discrete\(2\)"),
        ("observation", Tuple([OneOf([Discrete(2)])]), r"has observations Tuple\(OneOf\(Discrete\(2\)\)\), expected"),
        ("action", Tuple([Discrete(2)]), r"has actions Tuple\(Discrete\(2\)\), expected Discrete, MultiDiscrete"),
        ("action", Box(0, 1, (2,), TRUTH), r"has actions Box\(False, True, \(2,\), bool\), expected"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_remains_is_refused_with_its_own_description(what: str, space: Space, message: str, asynchronous: bool):
    config = GymConfig(name="own_envs:Refused-v0", kwargs={what: space}, asynchronous=asynchronous)
    with pytest.raises(UnknownEnvironment, match="own_envs:Refused-v0 " + message) as failure:
        make_env(config, 1, 1)
    assert "\n" not in str(failure.value)
