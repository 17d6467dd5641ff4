"""Whatever somebody else's environment does is copied, checked, and named in one line: here and in a process of its own."""

import os
import threading

import numpy as np
import pytest

from conf.env_schema import GymConfig
from envs.base import EnvironmentFailure, VectorEnv
from envs.gymnasium_edge import kept_alive
from envs.registry import make_env

apart = pytest.mark.parametrize("asynchronous", [False, pytest.param(True, marks=pytest.mark.slow)])


def misbehaving(how: str, asynchronous: bool = False, streams: int = 2) -> VectorEnv:
    config = GymConfig(name="own_envs:Misbehaving-v0", kwargs={"how": how, "at": 2}, asynchronous=asynchronous)
    return make_env(config, streams, 1)


@apart
def test_what_an_environment_writes_in_place_is_copied_before_it_is_overwritten(asynchronous: bool):
    env = make_env(GymConfig(name="own_envs:InPlace-v0", asynchronous=asynchronous), 2, 1)
    now = [env.reset(), *(env.step(np.zeros(2, np.int64)) for _ in range(7))]
    env.close()
    assert [t.observation[1, :2].tolist() for t in now] == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 1],
        [1, 2],
        [2, 0],
        [2, 1],
    ]
    assert [t.final_observation[0, :2].tolist() for t in now if t.final_observation is not None] == [[0, 3], [1, 3]]


STEPS = {
    "raises": "failed at a step: ZeroDivisionError somebody else's mistake",
    "exits": r"failed at a step: it ended its process with sys.exit\('the licence has expired'\)",
    "leaves": r"failed at a step: it ended its process with os._exit\(3\)",
    "old step": r"failed at a step: .*expected \(observation, reward, terminated, truncated, info\), got a tuple of 4",
    "shape": r"failed at a step: observation has shape \(3, 1\), its space has \(3,\)",
    "broadcasts": r"failed at a step: observation has shape \(1,\), its space has \(3,\)",
    "text": "failed at a step: observation is an object of type str, expected numbers",
    "two rewards": r"failed at a step: reward has shape \(2,\), expected one number",
    "nan": "gave stream 0 an observation that is not finite: nan at element 1",
    "overflow": "gave stream 0 an observation that is not finite: inf at element 2",
    "infinite reward": "gave stream 0 a reward that is not finite: inf",
}


@pytest.mark.parametrize("how", STEPS)
def test_a_bad_step_is_one_line(how: str):
    env = misbehaving(how)
    env.reset()
    if how != "old step":
        env.step(np.zeros(2, np.int64))
    with pytest.raises(EnvironmentFailure, match="gym/own_envs:Misbehaving-v0 " + STEPS[how]) as failure:
        env.step(np.zeros(2, np.int64))
    assert "\n" not in str(failure.value)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raises", "exits", "shape", "dies"])
def test_a_bad_step_in_a_process_of_its_own_is_the_same_line(how: str, capfd: pytest.CaptureFixture[str]):
    env = misbehaving(how, asynchronous=True)
    env.reset()
    env.step(np.zeros(2, np.int64))
    message = STEPS.get(how, "failed at a step: the process of its stream 0 ended with exit code -9")
    with pytest.raises(EnvironmentFailure, match="gym/own_envs:Misbehaving-v0 " + message):
        env.step(np.zeros(2, np.int64))
    env.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("Misbehaving", {"how": "old reset"}, r"expected \(observation, info\), .* got an object of type ndarray"),
        ("Misbehaving", {"how": "raises at reset"}, "KeyError 'map'"),
        ("OldReset", {}, "TypeError .*unexpected keyword argument 'seed'"),
    ],
)
def test_a_bad_reset_is_one_line(name: str, kwargs: dict[str, str], message: str):
    env = make_env(GymConfig(name=f"own_envs:{name}-v0", kwargs=kwargs), 2, 1)
    with pytest.raises(EnvironmentFailure, match=f"gym/own_envs:{name}-v0 failed at a reset: {message}") as failure:
        env.reset()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises when made", "RuntimeError no licence for this machine"),
        ("exits when made", r"it ended its process with sys.exit\('no licence'\)"),
    ],
)
def test_a_constructor_that_fails_is_one_line(how: str, message: str, asynchronous: bool):
    with pytest.raises(EnvironmentFailure, match="gym/own_envs:Misbehaving-v0 could not be made: " + message):
        misbehaving(how, asynchronous)


def test_children_and_other_threads_end_as_they_like():
    left: list[int] = []
    outside, os._exit = os._exit, left.append  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with kept_alive():
            thread = threading.Thread(target=lambda: os._exit(4))
            thread.start()
            thread.join()
        assert left == [4]
        assert os._exit == left.append
    finally:
        os._exit = outside
