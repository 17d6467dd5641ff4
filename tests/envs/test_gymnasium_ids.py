"""Any gymnasium id: spaces, boundaries against the plain environment, names."""

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from conf.env_schema import GymConfig
from envs.base import Continuous, EnvironmentFailure, MissingDependency, UnknownEnvironment
from envs.gymnasium_ids import GymnasiumEnv
from envs.registry import make_env


class Counting(gymnasium.Env[np.ndarray, int]):
    """Observation ``[episode, step]``; episodes of 3 steps that terminate and of 2 that are cut off, in turns."""

    observation_space = Box(-1e6, 1e6, (2,), np.float32)
    action_space = Discrete(2, start=5)  # pyright: ignore[reportAssignmentType]

    def __init__(self, **_: object) -> None:
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: int):
        assert action in (5, 6)
        self.count += 1
        cut = self.episode % 2 == 1
        return self._observe(), float(self.episode), not cut and self.count == 3, cut and self.count == 2, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.episode, self.count], np.float32)


class GreyImages(Counting):
    observation_space = Box(0, 255, (5, 4), np.uint8)  # pyright: ignore[reportAssignmentType]

    def _observe(self) -> np.ndarray:
        return np.full((5, 4), 255, np.uint8)


class Bytes(GreyImages):
    observation_space = Box(0, 255, (3,), np.uint8)  # pyright: ignore[reportAssignmentType]

    def _observe(self) -> np.ndarray:
        return np.array([0, 51, 255], np.uint8)


class Breaking(Counting):
    def step(self, action: int):
        raise ZeroDivisionError("somebody else's mistake")


LAMP = """
import gymnasium
from gymnasium.spaces import Box, Discrete

class Lamp(gymnasium.Env):
    observation_space, action_space = Box(0, 1, (1,)), Discrete(2)

    def __init__(self, volts):
        self.volts = volts

    def reset(self, *, seed=None, options=None):
        return [0], {}

    def step(self, action):
        return [0], self.volts, False, False, {}

gymnasium.register("Lamp-v0", Lamp)
"""

HAND_MADE = (Counting, GreyImages, Bytes, Breaking)


@pytest.fixture(autouse=True)
def _register():
    for kind in HAND_MADE:
        gymnasium.register(f"{kind.__name__}-v0", kind)
    yield
    for kind in HAND_MADE:
        del gymnasium.registry[f"{kind.__name__}-v0"]


def test_the_end_of_an_episode_shows_the_next_one_and_the_final_observation_beside_it():
    env = make_env(GymConfig(name="Counting-v0"), 2, 1)
    seen = [env.reset()]
    seen += [env.step(np.array([0, 1])) for _ in range(12)]
    episode, step = 0, 0
    for timestep in seen[1:]:
        step += 1
        cut = episode % 2 == 1
        over = step == (2 if cut else 3)
        assert (timestep.reward == episode).all()
        assert (timestep.terminated == (over and not cut)).all()
        assert (timestep.truncated == (over and cut)).all()
        if over and cut:
            assert timestep.final_observation is not None
            assert (timestep.final_observation == [episode, step]).all()
        if over:
            episode, step = episode + 1, 0
        assert (timestep.is_first == over).all()
        assert (timestep.observation == [episode, step]).all()
        assert timestep.valid.all()


def test_continuous_actions_are_scaled_and_clipped_to_their_bounds():
    env, plain = make_env(GymConfig(name="Pendulum-v1"), 4, 1), gymnasium.make("Pendulum-v1")
    assert env.spec.actions == Continuous((-2.0,), (2.0,))
    first = env.reset().observation
    torques = np.array([2.0, -2.0, 0.0, 1.0], np.float32)
    rewards = env.step(np.array([[100.0], [-1.0], [0.0], [0.5]], np.float32)).reward
    for stream, torque in enumerate(torques):
        plain.reset()
        velocity = float(first[stream, 2])
        plain.unwrapped.state = np.array([np.arctan2(*first[stream, [1, 0]]), velocity])  # pyright: ignore[reportAttributeAccessIssue]
        assert plain.step(np.array([torque]))[1] == pytest.approx(rewards[stream], abs=1e-4)


def test_discrete_observations_become_one_hot():
    env = make_env(GymConfig(name="FrozenLake-v1"), 2, 1)
    assert env.reset().observation.sum(axis=1).tolist() == [1.0, 1.0]
    assert env.spec.observation_shape == (16,)


def test_images_stay_bytes():
    env = make_env(GymConfig(name="ALE/Pong-v5"), 1, 1)
    timestep = env.reset()
    assert (env.spec.layout, env.spec.observation_shape, timestep.observation.dtype) == ("HWC", (210, 160, 3), np.uint8)
    env.close()


def test_grey_images_have_one_channel_and_bytes_are_numbers_up_to_one():
    grey, numbers = make_env(GymConfig(name="GreyImages-v0"), 2, 1), make_env(GymConfig(name="Bytes-v0"), 2, 1)
    assert (grey.spec.layout, grey.reset().observation.shape, grey.spec.observation_dtype) == (
        "HWC",
        (2, 5, 4, 1),
        "uint8",
    )
    assert numbers.spec.layout == "vector"
    np.testing.assert_allclose(numbers.reset().observation, [[0, 0.2, 1]] * 2, atol=1e-6)


def test_discrete_observations_of_a_cut_off_episode_are_one_hot_too():
    env = make_env(GymConfig(name="FrozenLake-v1", max_episode_steps=2), 2, 1)
    env.reset()
    assert env.step(np.zeros(2, np.int64)).final_observation is None
    final = env.step(np.zeros(2, np.int64)).final_observation
    assert final is not None
    assert final.sum(axis=1).tolist() == [1.0, 1.0]


def test_the_environments_own_picture_is_shown():
    env = make_env(GymConfig(name="ALE/Pong-v5", kwargs={"obs_type": "ram"}), 2, 1, pictures=True)
    env.reset()
    assert (env.render(1).shape, env.render(1).dtype) == ((210, 160, 3), np.uint8)
    env.close()
    for pictures in (False, True):
        without = make_env(GymConfig(name="Counting-v0"), 2, 1, pictures=pictures)
        with pytest.raises(NotImplementedError, match="gym/Counting-v0 has no picture"):
            without.render(0)


@pytest.mark.parametrize("how", ["takes no mode", "no display"])
def test_an_environment_that_cannot_draw_what_it_lists_plays_all_the_same(how: str):
    config = GymConfig(name="own_envs:NoScreen-v0", kwargs={"how": how})
    assert make_env(config, 2, 1).reset().observation.shape == (2, 2)
    drawing = make_env(config, 2, 1, pictures=True)
    drawing.reset()
    with pytest.raises(NotImplementedError, match="gym/own_envs:NoScreen-v0 has no picture"):
        drawing.render(0)


def test_nothing_is_drawn_unless_pictures_are_asked_for():
    modes = [
        make_env(
            GymConfig(name="own_envs:NoScreen-v0", kwargs={"how": ""}), 1, 1, pictures=pictures
        ).inner._envs.render_mode  # pyright: ignore
        for pictures in (False, True)
    ]
    assert modes == [None, "rgb_array"]


def test_a_picture_that_fails_is_one_line():
    env = make_env(GymConfig(name="own_envs:NoScreen-v0", kwargs={"how": "late"}), 1, 1, pictures=True)
    env.reset()
    with pytest.raises(
        EnvironmentFailure, match="gym/own_envs:NoScreen-v0 failed at a picture: RuntimeError no display"
    ):
        env.render(0)


@pytest.mark.parametrize("asynchronous", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_module_in_the_current_folder_brings_its_ids(
    asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As from an installed program, whose path lacks the current folder; here and in processes that start anew."""
    (tmp_path / "lamps").mkdir()
    (tmp_path / "lamps" / "small.py").write_text(LAMP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    env = make_env(GymConfig(name="lamps.small:Lamp-v0", kwargs={"volts": 3}, asynchronous=asynchronous), 2, 1)
    env.reset()
    assert env.step(np.zeros(2, np.int64)).reward.tolist() == [3, 3]
    env.close()
    del sys.modules["lamps.small"], sys.modules["lamps"], gymnasium.registry["Lamp-v0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import gymnasium\n1/0", "env=gym/broken:Foo-v0: the module broken cannot be imported: ZeroDivisionError"),
        ("import sys\nsys.exit('no')", "the module broken cannot be imported: it ended its process with sys.exit"),
        ("def f(:", "the module broken cannot be imported: SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownEnvironment, match=message) as failure:
        make_env(GymConfig(name="broken:Foo-v0"), 1, 1)
    assert "\n" not in str(failure.value)


def test_an_environment_that_breaks_is_a_failure_that_the_fleet_survives():
    env = make_env(GymConfig(name="Breaking-v0"), 2, 1)
    env.reset()
    with pytest.raises(EnvironmentFailure, match="gym/Breaking-v0 failed at a step: ZeroDivisionError somebody"):
        env.step(np.zeros(2, np.int64))


def test_a_time_limit_truncates():
    env = make_env(GymConfig(name="Pendulum-v1", max_episode_steps=4), 1, 1)
    env.reset()
    timesteps = [env.step(np.zeros((1, 1), np.float32)) for _ in range(4)]
    assert [bool(t.truncated[0]) for t in timesteps] == [False, False, False, True]


def test_the_same_seed_repeats_and_streams_differ():
    def observations(seed: int) -> np.ndarray:
        env = make_env(GymConfig(name="CartPole-v1"), 2, seed)
        return np.stack([env.reset().observation, *(env.step(np.array([0, 1])).observation for _ in range(30))])

    assert (observations(1) == observations(1)).all()
    assert (observations(1) != observations(2)).any()
    assert (observations(1)[0, 0] != observations(1)[0, 1]).any()


@pytest.mark.slow
def test_slow_environments_run_in_processes_of_their_own():
    together = make_env(GymConfig(name="CartPole-v1"), 2, 3)
    apart = make_env(GymConfig(name="CartPole-v1", asynchronous=True), 2, 3)
    try:
        assert (together.reset().observation == apart.reset().observation).all()
        for _ in range(25):
            ours, theirs = together.step(np.array([0, 1])), apart.step(np.array([0, 1]))
            assert (ours.observation == theirs.observation).all()
            assert (ours.is_first == theirs.is_first).all()
    finally:
        apart.close()


@pytest.mark.slow
def test_a_process_that_is_killed_is_a_failure_and_the_others_go_with_it():
    env = GymnasiumEnv(GymConfig(name="ALE/Pong-v5", kwargs={"obs_type": "ram"}, asynchronous=True), 2, 1)
    env.reset()
    processes = env._envs.processes  # pyright: ignore[reportAttributeAccessIssue]
    processes[1].kill()
    processes[1].join()
    with pytest.raises(
        EnvironmentFailure,
        match="gym/ALE/Pong-v5 failed at a step: the process of its stream 1 ended with exit code -9",
    ):
        env.step(np.zeros(2, np.int64))
    env.close()
    env.close()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPol-v1", "gymnasium has no environment 'CartPol-v1': did you mean CartPole-v1"),
        (
            "Xyzzy",
            r"no environment 'Xyzzy': gymnasium.pprint_registry\(\) lists them; write env=gym/MODULE:ID",
        ),
        ("own_envs:Gues-v0", "gymnasium has no environment 'Gues-v0': did you mean Guess-v0"),
        ("own_envs:OnlyTogether-v0", "cannot make own_envs:OnlyTogether-v0 with env.kwargs={}: Error OnlyTogether-v0"),
    ],
)
def test_what_cannot_be_used_is_one_line(name: str, message: str):
    with pytest.raises(UnknownEnvironment, match=message) as failure:
        make_env(GymConfig(name=name), 1, 1)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(("name", "kwargs"), [("CartPole-v1", {"wheels": 4}), ("FrozenLake-v1", {"map_name": "9x9"})])
def test_wrong_arguments_are_one_line(name: str, kwargs: dict[str, Any]):
    with pytest.raises(UnknownEnvironment, match=rf"cannot make {name} with env\.kwargs="):
        make_env(GymConfig(name=name, kwargs=kwargs), 1, 1)


def test_a_plugin_that_is_not_installed_is_one_line():
    with pytest.raises(MissingDependency, match="env=gym/nowhere:Foo-v0 needs the Python module nowhere: No module"):
        make_env(GymConfig(name="nowhere:Foo-v0"), 1, 1)
