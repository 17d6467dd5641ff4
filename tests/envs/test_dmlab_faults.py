"""Engines that die, hang, fail or are slow: what happens to their stream, and that nothing happens to the others."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from opened_dmlab import STREAMS, kill, labels, wait_for_spares
from patience import patience, wait_until

from conf.env_schema import DMLabConfig
from envs.base import EnvironmentFailure, Timestep
from envs.dmlab.environment import DMLabEnv


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
    limit_s = patience(1) if missed else 300.0
    env = open_env(DMLabConfig(spare_engines=spares, step_timeout_s=limit_s), steps=[80, 120])
    before = env.reset()
    for _ in range(5):
        before = env.step(np.zeros(STREAMS, int))
    wait_for_spares(env)
    last_seen = before.observation
    faults(fault)
    now = env.step(np.zeros(STREAMS, int))
    lost = check_continuity(before, now)
    assert lost.sum() == 1
    assert (~now.valid == lost).all(), "the step waited for the new engine, or lost another one"
    assert now.final_observation is not None
    assert (now.final_observation[lost] == last_seen[lost]).all()
    seen_seeds = set(labels(last_seen)["seed"])
    waited = 0
    while not now.valid.all() or (now.terminated | now.truncated).any():
        before, now = now, env.step(np.zeros(STREAMS, int))
        assert not check_continuity(before, now).any()
        waited += int((~now.valid).sum())
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
    limit_s = patience(5) if fault == "hang-reset" else 300.0
    env = open_env(DMLabConfig(spare_engines=2, reset_timeout_s=limit_s, wait_for_reset=True), steps=[10, 14])
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
    while env.statistics()["engine_restarts"] < 2 or not now.valid.all():
        before, now = now, env.step(np.zeros(STREAMS, int))
        lost += check_continuity(before, now)
    assert lost.tolist() == [0, 1, 0]
    assert env.statistics()["engine_restarts"] == 2


def test_an_engine_that_dies_after_the_last_answer_of_its_episode_loses_that_answer(
    open_env: Callable[..., DMLabEnv], monkeypatch: pytest.MonkeyPatch
):
    env = open_env(DMLabConfig(spare_engines=1), steps=[3, 3])
    env.reset()
    supervisor, answers = env._supervisor, env._supervisor.answers
    for _ in range(2):
        env.step(np.zeros(STREAMS, int))

    def answer_and_kill() -> Iterator[Any]:
        for stream, engine in answers():
            yield stream, engine
            if stream == 0:
                os.kill(engine.pid, signal.SIGKILL)
                wait_until("the loss", lambda: supervisor._look(0.1) or supervisor.lost)

    monkeypatch.setattr(supervisor, "answers", answer_and_kill)
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
        wait_until("the hang", lambda: not (faults / "hang-step").exists())
        owner.kill()
    _, alive = psutil.wait_procs(engines, timeout=patience(10))
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
        ("rooms_keys_doors_puzzle", 300, "raise-reset", "ended with status 1: RuntimeError: the stand-in was told to"),
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
def test_a_slow_reset_does_not_stall_the_other_streams(
    open_env: Callable[..., DMLabEnv], faults: Callable[[str], None], tmp_path: Path
):
    env = open_env(DMLabConfig(spare_engines=0), steps=[30, 60])
    now = env.reset()
    faults("wait-reset")
    while (tmp_path / "faults" / "wait-reset").exists():
        now = env.step(np.zeros(STREAMS, int))
    played = 0
    for _ in range(100):
        now = env.step(np.zeros(STREAMS, int))
        assert not now.valid.all(), "one engine less than streams plays"
        played += int(now.valid.sum())
    assert played > 50
    faults("go")
    while not now.valid.all():
        now = env.step(np.zeros(STREAMS, int))
    assert env.statistics()["engine_restarts"] == 0


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
