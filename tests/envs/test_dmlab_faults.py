"""Engines that die, hang, fail or are slow: what happens to their stream, and that nothing happens to the others."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from actors.actor import Actor
from actors.evaluation import evaluate
from actors.worker import ActorIdentity
from conf.env_schema import DMLabConfig
from conf.schema import ActorsConfig, LossConfig, NetworkConfig, RuleConfig
from envs.base import EnvironmentFailure, Timestep
from envs.dmlab.environment import DMLabEnv
from envs.dmlab.suite import make
from rtrl_core import VTrace, WeightsSnapshot, vtrace

STREAMS = 3


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[str], None]:
    """Makes the named fault happen, once, to whichever engine comes to it first."""
    (tmp_path / "faults").mkdir()
    return lambda name: (tmp_path / "faults" / name).touch()


@pytest.fixture
def open_env(standin: Callable[..., None], tmp_path: Path) -> Iterator[Callable[..., DMLabEnv]]:
    """Opens an environment of the stand-in, which behaves as ``FAKE_LAB`` is told."""
    envs: list[DMLabEnv] = []

    def build(config: DMLabConfig, streams: int = STREAMS, **behaviour: Any) -> DMLabEnv:
        folder = tmp_path / "faults"
        standin(**behaviour | ({"faults": str(folder)} if folder.exists() else {}))
        env = make(config, streams, 1)
        assert isinstance(env, DMLabEnv)
        envs.append(env)
        return env

    yield build
    for env in envs:
        env.close()


def kill(pid: int) -> None:
    """Waits until its ends of pipes are closed: an engine that was not scheduled since is killed, and has not died."""
    os.kill(pid, signal.SIGKILL)
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)


def labels(pictures: np.ndarray) -> np.ndarray:
    import deepmind_lab

    return np.array([deepmind_lab.label(picture) for picture in pictures])


def wait_for_spares(env: DMLabEnv) -> None:
    supervisor = env._supervisor
    supervisor._wait_until(lambda: not any(engine.busy for engine in supervisor._prepared))


def check_continuity(before: Timestep, now: Timestep) -> np.ndarray:
    """Every stream that did not lose its engine went on by exactly one step. Returns the streams that lost it in this step."""
    seen, seen_before = labels(now.observation), labels(before.observation)
    going_on = now.valid & ~(now.terminated | now.truncated)
    assert (seen["step"][going_on] == seen_before["step"][going_on] + 1).all()
    assert (seen["seed"][going_on] == seen_before["seed"][going_on]).all()
    resets = ~now.valid
    assert now.is_first[resets].all()
    assert not now.reward[resets].any()
    assert not now.terminated[resets].any()
    return resets & now.truncated


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("fault", "missed"), [("exit-step", 0), ("raise-step", 0), ("hang-step", 1)], ids=["dies", "throws", "hangs"]
)
@pytest.mark.parametrize("spares", [0, 1])
def test_a_stream_that_loses_its_engine_begins_anew_and_the_others_go_on(
    open_env: Callable[..., DMLabEnv], faults: Callable[[str], None], fault: str, missed: int, spares: int
):
    env = open_env(DMLabConfig(spare_engines=spares, step_timeout_s=0.7, reset_timeout_s=20), steps=[80, 120])
    before = env.reset()
    for _ in range(5):
        before = env.step(np.zeros(STREAMS, int))
    wait_for_spares(env)
    last_seen = before.observation
    faults(fault)
    started = time.monotonic()
    now = env.step(np.zeros(STREAMS, int))
    assert time.monotonic() - started < 3
    lost = check_continuity(before, now)
    assert lost.sum() == 1
    assert (~now.valid == lost).all()
    assert now.final_observation is not None
    assert (now.final_observation[lost] == last_seen[lost]).all()
    seen_seeds = set(labels(last_seen)["seed"])
    waited = 0
    for _ in range(2000):
        before, now = now, env.step(np.zeros(STREAMS, int))
        assert not check_continuity(before, now).any()
        waited += int((~now.valid).sum())
        if now.valid.all() and not (now.terminated | now.truncated).any():
            break
    assert now.valid.all()
    (fresh,) = labels(now.observation)[lost]
    assert fresh["seed"] not in seen_seeds
    assert (waited > 0) == (spares == 0)
    counts = env.statistics()
    assert (counts["engine_restarts"], counts["env_deadlines_missed"]) == (1, missed)


@pytest.mark.seconds
@pytest.mark.parametrize("fault", ["raise-reset", "exit-reset", "hang-reset"])
def test_an_engine_that_fails_at_a_reset_is_replaced_without_a_lost_row(
    open_env: Callable[..., DMLabEnv], faults: Callable[[str], None], fault: str
):
    limit = 5 if fault == "hang-reset" else 60
    env = open_env(DMLabConfig(spare_engines=2, reset_timeout_s=limit, wait_for_reset=True), steps=[10, 14])
    env.reset()
    wait_for_spares(env)
    faults(fault)
    ends = 0
    for _ in range(40):
        now = env.step(np.zeros(STREAMS, int))
        assert now.valid.all()
        ends += int((now.terminated | now.truncated).sum())
    assert ends > 3
    assert env.statistics()["engine_restarts"] == 1
    assert env.statistics()["env_deadlines_missed"] == int(fault == "hang-reset")


def test_an_engine_killed_between_steps_is_noticed_wherever_it_is(open_env: Callable[..., DMLabEnv]):
    env = open_env(DMLabConfig(spare_engines=1), steps=[100, 120])
    now = env.reset()
    spare, playing = env._supervisor._prepared[0], env._supervisor.playing[1]
    assert playing is not None
    for engine in (spare, playing):
        kill(engine.pid)
    lost = np.zeros(STREAMS, int)
    for _ in range(400):
        before, now = now, env.step(np.zeros(STREAMS, int))
        lost += check_continuity(before, now)
        if env.statistics()["engine_restarts"] == 2 and now.valid.all():
            break
    assert lost.tolist() == [0, 1, 0]
    assert env.statistics()["engine_restarts"] == 2


def test_an_engine_that_dies_after_the_last_answer_of_its_episode_loses_that_answer(
    open_env: Callable[..., DMLabEnv], monkeypatch: pytest.MonkeyPatch
):
    env = open_env(DMLabConfig(spare_engines=1), steps=[3, 3])
    env.reset()
    supervisor, step = env._supervisor, env._supervisor.step
    for _ in range(2):
        env.step(np.zeros(STREAMS, int))

    def step_and_kill(actions: np.ndarray) -> Iterator[Any]:
        for stream, engine in step(actions):
            yield stream, engine
            if stream == 0:
                os.kill(engine.pid, signal.SIGKILL)
                deadline = time.monotonic() + 10
                while not supervisor.lost and time.monotonic() < deadline:
                    supervisor._look(0.1)

    monkeypatch.setattr(supervisor, "step", step_and_kill)
    now = env.step(np.zeros(STREAMS, int))
    assert now.valid.tolist() == [False, True, True]
    assert now.truncated[0]
    assert not now.terminated[0]
    assert now.reward[0] == 0
    assert (now.terminated | now.truncated).all()
    assert env.statistics()["engine_restarts"] == 1


OWNER = """
import sys
import numpy as np
from conf.env_schema import DMLabConfig
from envs.dmlab.suite import make

env = make(DMLabConfig(spare_engines=0), 2, 1)
env.reset()
open(sys.argv[1], "w").close()  # one engine will hang in its next step, with the interpreter's lock
print(*(engine.pid for engine in env._supervisor.playing), flush=True)
env.step(np.zeros(2, int))
"""


@pytest.mark.seconds
@pytest.mark.skipif(sys.platform != "linux", reason="the engine exists for Linux only")
def test_engines_end_with_a_process_that_is_killed_even_in_the_middle_of_a_call(tmp_path: Path):
    faults = tmp_path / "faults"
    faults.mkdir()
    path = [str(Path(__file__).parents[1] / "standins"), *sys.path]
    environment = os.environ | {
        "FAKE_LAB": json.dumps({"faults": str(faults), "steps": [100, 120]}),
        "PYTHONPATH": os.pathsep.join(path),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-c", OWNER, str(faults / "hang-step")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        engines = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(engines) == 2
        deadline = time.monotonic() + 30
        while (faults / "hang-step").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        owner.kill()
    _, alive = psutil.wait_procs(engines, timeout=10)
    assert alive == []


@pytest.mark.seconds
def test_an_engine_that_never_starts_ends_the_environment_with_its_own_words(open_env: Callable[..., DMLabEnv]):
    env = open_env(
        DMLabConfig(name="psychlab_continuous_recognition", dataset_path="/tmp"), streams=1, dataset="broken"
    )
    with pytest.raises(
        EnvironmentFailure, match=r"engines in a row began no episode.*the pictures are broken"
    ) as caught:
        env.reset()
    assert "\n" not in str(caught.value)


@pytest.mark.seconds
def test_an_engine_that_does_not_find_its_map_says_which_and_of_which_level(
    open_env: Callable[..., DMLabEnv], faults: Callable[[str], None]
):
    env = open_env(DMLabConfig(spare_engines=0), streams=1)
    for number in range(10):
        faults(f"map-reset.{number}")
    with pytest.raises(EnvironmentFailure) as caught:
        env.reset()
    assert env._supervisor._by_handle == {}, "engines were left behind"
    said = str(caught.value)
    assert "the engine of contributed/dmlab30/rooms_watermaze ended with status 1: " in said
    assert said.endswith("Didn't find map 'maze_0815' / : No such file or directory")


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("level", "limit", "fault", "words"),
    [
        ("rooms_keys_doors_puzzle", 20, "raise-reset", "ended with status 1: RuntimeError: the stand-in was told to"),
        ("rooms_watermaze", 0.5, "hang-reset", "gave no answer in time (env.step_timeout_s, env.reset_timeout_s)"),
    ],
)
def test_whatever_ends_an_engine_its_level_is_named(
    open_env: Callable[..., DMLabEnv], faults: Callable[[str], None], level: str, limit: float, fault: str, words: str
):
    env = open_env(DMLabConfig(name=level, spare_engines=0, reset_timeout_s=limit), streams=1)
    for number in range(10):
        faults(f"{fault}.{number}")
    with pytest.raises(EnvironmentFailure) as caught:
        env.reset()
    assert f"the engine of contributed/dmlab30/{level} {words}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.seconds
def test_slow_resets_do_not_stall_the_other_streams(open_env: Callable[..., DMLabEnv]):
    env = open_env(DMLabConfig(spare_engines=0), steps=[30, 60], reset_s=2.0)
    env.reset()
    longest, waiting = 0.0, 0
    going = np.zeros(STREAMS, bool)
    for _ in range(60):
        started = time.monotonic()
        now = env.step(np.zeros(STREAMS, int))
        waiting += int((~now.valid).sum())
        going = now.valid & ~(now.terminated | now.truncated)
        if going.any():
            longest = max(longest, time.monotonic() - started)
        time.sleep(0.005)
    assert waiting > 0
    assert longest < 1.0


@pytest.mark.seconds
def test_spares_take_over_while_others_reset_slowly(open_env: Callable[..., DMLabEnv]):
    env = open_env(DMLabConfig(spare_engines=STREAMS), steps=[40, 60], reset_s=0.5)
    env.reset()
    wait_for_spares(env)
    ends = 0
    for _ in range(60):
        now = env.step(np.zeros(STREAMS, int))
        assert now.valid.all()
        ends += int((now.terminated | now.truncated).sum())
    assert ends >= STREAMS


@pytest.mark.seconds
def test_an_unroll_in_which_an_engine_died_has_a_finite_gradient_of_its_real_steps(
    open_env: Callable[..., DMLabEnv], faults: Callable[[str], None]
):
    env = open_env(DMLabConfig(spare_engines=1, width=16, height=16), steps=[30, 40])
    actor = Actor(
        *(ActorIdentity(0, 0, 1), env, NetworkConfig(features=8, num_units=4), RuleConfig(), LossConfig()),
        *(ActorsConfig(num_envs=STREAMS, unroll=10, autocast="float32"), "none"),
    )
    weights = WeightsSnapshot(0, actor.parameters.layout.fingerprint, actor.parameters.vector.clone())
    assert actor.unroll(weights).header.num_steps == 30
    wait_for_spares(env)
    faults("exit-step")
    contribution = actor.unroll(weights)
    assert contribution.header.num_steps == 29
    assert contribution.statistics.env_counters["engine_restarts"] == 1
    assert contribution.statistics.episodes == ()
    assert torch.isfinite(contribution.gradient).all()
    assert contribution.gradient.abs().sum() > 0


@pytest.mark.seconds
def test_a_game_that_was_lost_with_its_engine_adds_nothing_to_the_next_ones_return(
    open_env: Callable[..., DMLabEnv], monkeypatch: pytest.MonkeyPatch, faults: Callable[[str], None]
):
    env = open_env(DMLabConfig(spare_engines=1, width=16, height=16), streams=1, steps=[16, 16])
    actor = Actor(
        *(ActorIdentity(0, 0, 1), env, NetworkConfig(features=8, num_units=4), RuleConfig(), LossConfig()),
        *(ActorsConfig(num_envs=1, unroll=8, autocast="float32"), "none"),
    )
    weights = WeightsSnapshot(0, actor.parameters.layout.fingerprint, actor.parameters.vector.clone())
    step, steps = env.step, iter(range(10**6))

    def lose_one(actions: np.ndarray) -> Timestep:
        if next(steps) == 10:
            faults("exit-step")
        return step(actions)

    monkeypatch.setattr(env, "step", lose_one)
    episodes = [episode for _ in range(6) for episode in actor.unroll(weights).statistics.episodes]
    assert len(episodes) == 2
    assert {episode.length for episode in episodes} == {16}
    rewards = [float(step) + 0.5 for step in range(1, 17) if step % 2 == 0]
    assert {episode.episode_return for episode in episodes} == {sum(rewards)}

    other = open_env(DMLabConfig(spare_engines=1, width=16, height=16), streams=1, steps=[16, 16])
    step, steps = other.step, iter(range(10**6))
    monkeypatch.setattr(other, "step", lose_one)
    score = evaluate(actor.network, other, episodes=2, greedy=True, reward_clip="none", seed=1)
    assert (score.returns, score.lengths) == ([sum(rewards)] * 2, [16] * 2)
    assert other.statistics()["engine_restarts"] == 1


@pytest.mark.seconds
@pytest.mark.parametrize("spares", [0, 1])
def test_what_came_before_an_engine_was_lost_is_bootstrapped_as_at_any_cut(
    open_env: Callable[..., DMLabEnv],
    faults: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    spares: int,
):
    env = open_env(DMLabConfig(spare_engines=spares, width=16, height=16), steps=[30, 40])
    actor = Actor(
        *(ActorIdentity(0, 0, 1), env, NetworkConfig(features=8, num_units=4), RuleConfig(), LossConfig()),
        *(ActorsConfig(num_envs=STREAMS, unroll=10, autocast="float32"), "none"),
    )
    with torch.no_grad():  # values that show whether one is missing, doubled or discounted once more
        actor.network.value_head.bias.fill_(10.0)
    weights = WeightsSnapshot(0, actor.parameters.layout.fingerprint, actor.parameters.vector.clone())
    wait_for_spares(env)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def listen(**arguments: Any) -> VTrace:
        returns = vtrace(**arguments)
        seen.append((arguments["values"], returns.targets))
        return returns

    step, steps = env.step, iter(range(10))

    def lose_one(actions: np.ndarray) -> Timestep:
        if next(steps) == 5:
            faults("exit-step")
        return step(actions)

    monkeypatch.setattr("actors.gradients.vtrace", listen)
    monkeypatch.setattr(env, "step", lose_one)
    actor.unroll(weights)
    rows, ((values, targets),) = actor.rollout.unroll, seen
    ((stream,),) = np.nonzero((rows.truncated & ~rows.valid)[5].numpy())
    assert rows.valid[:5].all()
    assert not rows.is_first[1:6, stream].any(), "until then it is in the middle of its episode"
    assert rows.is_first[6, stream]
    expected = values[5, stream]
    assert expected > 5
    for t in range(4, -1, -1):
        expected = rows.rewards[t, stream] + LossConfig().discount * expected
        assert targets[t, stream] == pytest.approx(float(expected), abs=1e-4)
