"""DMLab environments: boundaries, seeds, levels and actions. Against the stand-in everywhere, and the real module where there is one."""

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from dmlab_modules import both_modules
from opened_dmlab import STREAMS, Opened, kill, labels
from patience import wait_until

from conf.env_schema import DMLab30Config, DMLabConfig
from envs.base import Timestep, UnknownEnvironment
from envs.dmlab.actions import action_table
from envs.dmlab.environment import DMLabEnv
from envs.dmlab.instructions import word_hashes
from envs.dmlab.levels import DMLAB30

SHORT = "rooms_select_nonmatching_object"
"""A level whose episodes take 180 steps of the real engine."""


def play(env: DMLabEnv, steps: int, seed: int = 0) -> Iterator[Timestep]:
    choose = np.random.default_rng(seed)
    for _ in range(steps):
        yield env.step(choose.integers(0, 9, env.num_envs))


@pytest.mark.seconds
@both_modules
def test_episodes_follow_each_other_without_a_gap(module: str, opened: Opened):
    env = opened(DMLabConfig(name=SHORT, wait_for_reset=True))
    assert (env.spec.observation_shape, env.spec.layout, env.spec.action_repeat) == ((72, 96, 3), "HWC", 4)
    first = env.reset()
    assert first.is_first.all()
    assert not first.valid.any()
    assert not first.reward.any()
    ends, before = 0, first
    for now in play(env, 400):
        over = now.terminated | now.truncated
        assert now.valid.all()
        assert (now.is_first == over).all()
        assert now.observation.shape == (STREAMS, 72, 96, 3)
        assert (now.observation.dtype, now.reward.dtype) == (np.uint8, np.float32)
        if now.truncated.any():
            assert now.final_observation is not None
            assert (now.final_observation[now.truncated] == before.observation[now.truncated]).all()
        ends, before = ends + int(over.sum()), now
    assert ends >= STREAMS


@pytest.mark.seconds
@both_modules
def test_a_seed_repeats_and_another_differs_and_so_do_streams(module: str, opened: Opened):
    def history(seed: int) -> np.ndarray:
        env = opened(DMLabConfig(name=SHORT, wait_for_reset=True), seed)
        return np.stack([env.reset().observation, *(now.observation for now in play(env, 200))])

    first = history(1)
    assert (first == history(1)).all()
    assert (first != history(2)).any()
    assert (first[:, 0] != first[:, 1]).any()


@pytest.mark.seconds
@both_modules
def test_an_engine_that_is_killed_is_replaced(module: str, opened: Opened):
    env = opened(DMLabConfig(name=SHORT), streams=2)
    env.reset()
    engine = env._supervisor.playing[0]
    assert engine is not None
    kill(engine.pid)
    now = env.step(np.zeros(2, int))
    assert now.valid.tolist() == [False, True]
    assert now.truncated.tolist() == [True, False]
    while not now.valid[0]:
        now = env.step(np.zeros(2, int))
    assert env.statistics()["engine_restarts"] == 1


@pytest.mark.seconds
@both_modules
def test_a_level_that_was_built_once_comes_from_the_cache(module: str, opened: Opened, tmp_path: Path):
    config = DMLabConfig(
        name="rooms_keys_doors_puzzle", num_levels=1, spare_engines=0, level_cache=str(tmp_path), wait_for_reset=True
    )
    first = opened(config, streams=1)
    shown = first.reset().observation
    assert first.statistics()["cache_misses"] > 0
    again = opened(config, seed=2, streams=1)
    assert (again.reset().observation == shown).all()
    assert again.statistics()["cache_hits"] > 0


@pytest.mark.seconds
def test_every_step_of_every_episode_is_seen_once_and_no_level_seed_twice(standin: Callable[..., None], opened: Opened):
    env = opened(DMLabConfig(spare_engines=2))
    before = labels(env.reset().observation)
    assert (before["step"] == 0).all()
    seeds = list(before["seed"])
    for now in play(env, 300):
        seen = labels(now.observation)
        going_on = ~now.is_first & now.valid & ~(now.terminated | now.truncated)
        assert (seen["seed"][going_on] == before["seed"][going_on]).all()
        assert (seen["step"][going_on] == before["step"][going_on] + 1).all()
        assert (seen["step"][now.is_first & now.valid] == 0).all()
        begun = now.is_first & (seen["seed"] != before["seed"])
        seeds += list(seen["seed"][begun])
        before = seen
    assert len(seeds) > 30
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0, "an episode that cannot be repeated was played"


@pytest.mark.seconds
def test_time_outs_are_told_apart_from_ends(standin: Callable[..., None], opened: Opened):
    standin(steps=[10, 16])
    env = opened(DMLabConfig())
    env.reset()
    length, timed_out, ended = np.zeros(STREAMS, int), set(), set()
    for now in play(env, 400):
        length += now.valid
        timed_out |= set(length[now.truncated])
        ended |= set(length[now.terminated])
        length[now.truncated | now.terminated] = 0
    assert timed_out == {16}
    assert ended == set(range(10, 16))


def test_a_level_that_does_not_tell_its_frames_left_never_times_out(standin: Callable[..., None], opened: Opened):
    env = opened(DMLabConfig(name="tests/empty_room_test"))
    env.reset()
    timesteps = list(play(env, 100))
    assert any(now.terminated.any() for now in timesteps)
    assert not any(now.truncated.any() for now in timesteps)


@pytest.mark.seconds
@pytest.mark.parametrize("action_set", ["nine", "fifteen"])
def test_the_engine_gets_the_chosen_action(standin: Callable[..., None], opened: Opened, action_set: str):
    env = opened(DMLabConfig(actions=action_set))
    env.reset()
    table = action_table(action_set)
    for first in range(len(table) - STREAMS + 1):
        chosen = np.arange(first, first + STREAMS)
        now = env.step(chosen)
        seen = labels(now.observation)["action"]
        assert (seen[~now.is_first] == table[chosen][~now.is_first]).all()


@both_modules
def test_a_language_level_gives_an_instruction(module: str, opened: Opened):
    env = opened(DMLabConfig(name="language_select_described_object", instruction=True), streams=1)
    first = env.reset()
    assert first.instruction is not None
    assert (first.instruction > 0).any()


@pytest.mark.seconds
def test_instructions_are_read_at_every_step(standin: Callable[..., None], opened: Opened):
    env = opened(DMLabConfig(name="language_execute_random_task", instruction=True))
    timesteps = [env.reset(), *play(env, 60)]
    words = ("pick", "the", "red", "blue", "ball", "key", "near", "far")
    known = {int(word_hashes(word)[0]) for word in words}
    assert env.spec.instruction_length == 16
    instructions = np.stack([now.instruction for now in timesteps if now.instruction is not None])
    assert instructions.shape == (61, STREAMS, 16)
    assert set(np.unique(instructions[..., :4])) <= known
    assert not instructions[..., 4:].any()
    assert len(np.unique(instructions[:, 0], axis=0)) > 1


def test_an_episode_that_is_cut_off_keeps_its_own_instruction(standin: Callable[..., None], opened: Opened):
    standin(steps=[4, 6])
    env = opened(DMLabConfig(name="language_execute_random_task", instruction=True, wait_for_reset=True))
    before, others = env.reset(), 0
    for now in play(env, 120):
        cut = now.truncated
        if cut.any():
            assert now.final_instruction is not None
            assert now.instruction is not None
            assert before.instruction is not None
            assert (now.final_instruction[cut] == before.instruction[cut]).all()
            others += int((now.final_instruction[cut] != now.instruction[cut]).any(axis=1).sum())
        before = now
    assert others > 10


def test_dmlab30_spreads_its_levels_and_names_the_level_of_every_transition(
    standin: Callable[..., None], opened: Opened
):
    names = ["rooms_watermaze", "lasertag_one_opponent_small", "natlab_fixed_large_map"]
    env = opened(DMLab30Config(levels=names), streams=6)
    assert env.spec.levels == tuple(names)
    assert env.spec.name == "dmlab30/dmlab30"
    number = {zlib.crc32(name.encode()): index for index, name in enumerate(names)}
    before, steps = env.reset(), np.zeros(3, int)
    assert sorted(number[int(level)] for level in labels(before.observation)["level"]) == [0, 0, 1, 1, 2, 2]
    for now in play(env, 1000):  # a level whose engines are slow to start has fewer steps in as many rounds
        assert now.level is not None
        expected = [number[int(level)] for level in labels(before.observation)["level"]]
        assert (now.level[now.valid] == np.array(expected)[now.valid]).all()
        steps += np.bincount(now.level[now.valid], minlength=3)
        before = now
        if (steps > 150).all():
            break
    assert (steps > 150).all()


@pytest.mark.seconds
def test_an_equal_schedule_gives_two_streams_three_levels(standin: Callable[..., None], opened: Opened):
    standin(steps=[4, 8])
    names = [level.name for level in DMLAB30[2:5]]
    env = opened(DMLab30Config(levels=names, schedule="equal", spare_engines=2, instruction=False), streams=2)
    env.reset()
    steps = np.zeros(3, int)
    while steps.sum() < 240:
        now = env.step(np.zeros(2, int))
        assert now.level is not None
        steps += np.bincount(now.level[now.valid], minlength=3)
    assert steps.min() > 0.7 * steps.mean(), steps


@both_modules
def test_a_held_out_level_opens_in_the_test_split(module: str, opened: Opened):
    env = opened(DMLabConfig(name="rooms_collect_good_objects_test", split="test"), streams=1)
    env.reset()
    assert next(play(env, 1)).valid.all()


@both_modules
def test_a_level_that_only_the_engine_can_refuse_is_one_line(module: str, opened: Opened):
    env = opened(DMLabConfig(name="contributed/mine/level"))
    with pytest.raises(UnknownEnvironment, match=r"^DeepMind Lab cannot open contributed/mine/level: .*\S$") as caught:
        env.reset()
    assert "\n" not in str(caught.value)


@pytest.mark.seconds
def test_engines_find_levels_that_others_have_built(standin: Callable[..., None], opened: Opened, tmp_path: Path):
    config = DMLabConfig(
        name="rooms_keys_doors_puzzle",
        num_levels=4,
        level_cache=str(tmp_path / "cache"),
        level_cache_remote=(tmp_path / "far").as_uri(),
    )
    env = opened(config, streams=2)
    env.reset()
    list(play(env, 150))
    counts = env.statistics()
    assert counts["cache_hits"] > 0
    # Four level seeds, and the throw-away episode of each of the three engines.
    assert 4 <= counts["cache_misses"] <= 4 + 3 + 2
    env.close()
    closed = env.statistics()
    # An engine that prepared an episode may have built its map between the two looks.
    assert all(counts[name] <= closed[name] <= counts[name] + 3 for name in ("cache_hits", "cache_misses"))

    for pack in (tmp_path / "cache").glob("*.pk3"):
        pack.write_bytes(pack.read_bytes()[:50])
    again = opened(config, streams=2)
    again.reset()
    list(play(again, 100))
    assert again.statistics()["engine_restarts"] == 0
    assert again.statistics()["cache_misses"] <= 3, "the remote tier has whole packs"


def test_maps_that_are_built_at_opening_or_in_a_step_come_from_the_cache_too(
    standin: Callable[..., None], opened: Opened, tmp_path: Path
):
    opening = DMLabConfig(name="language_select_described_object", spare_engines=0, level_cache=str(tmp_path))
    first = opened(opening, streams=1)
    first.reset()
    assert first._supervisor.cache_counts() == (0, 1, 0)
    again = opened(opening, seed=2, streams=1)
    again.reset()
    assert again._supervisor.cache_counts() == (1, 0, 0)

    standin(steps=[4, 6])
    # No spare: two engines that need the same new map at the same time both build it.
    stepping = DMLabConfig(
        name="skymaze_irreversible_path_varied", num_levels=1, level_cache=str(tmp_path), spare_engines=0
    )
    env = opened(stepping, streams=1)
    env.reset()
    list(play(env, 30))
    hits, misses, failures = env._supervisor.cache_counts()
    assert misses == 1 + 2, "the throw-away episode's first map, and two maps of the one level"
    assert hits > 5
    assert failures == 0


def test_maps_are_built_although_the_trainer_ignores_its_children(tmp_path: Path):
    """An engine inherits that, and its map compiler does not survive it."""
    program = (
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "from conf.env_schema import DMLabConfig; from envs.registry import make_env;"
        "env = make_env(DMLabConfig(name='rooms_keys_doors_puzzle', spare_engines=0), 1, 1); env.reset();"
        "print(env.statistics()['engine_restarts']); env.close()"
    )
    standins = str(Path(__file__).parents[1] / "standins")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([standins, *filter(None, sys.path)]), "FAKE_LAB": "{}"}
    finished = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert finished.stdout == "0.0\n", finished.stderr


def test_engine_processes_hold_no_torch_and_end_with_their_environment(standin: Callable[..., None], opened: Opened):
    env = opened(DMLabConfig(spare_engines=0), streams=1)
    env.reset()
    engine = env._supervisor.playing[0]
    assert engine is not None
    assert "libtorch" not in Path(f"/proc/{engine.pid}/maps").read_text()
    folder = engine._folder.parent
    assert folder.is_dir()
    env.close()
    env.close()
    assert not Path(f"/proc/{engine.pid}").exists()
    assert not folder.exists()


@pytest.mark.seconds
def test_engines_end_and_their_files_go_when_the_trainer_is_killed(
    standin: Callable[..., None], opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = (
        "import sys, time; from conf.env_schema import DMLabConfig; from envs.registry import make_env;"
        "env = make_env(DMLabConfig(spare_engines=0), 1, 1); env.reset();"
        "print(env.inner._supervisor.playing[0].pid, flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path)])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as trainer:
        assert trainer.stdout is not None
        engine = Path(f"/proc/{int(trainer.stdout.readline())}")
        assert engine.exists()
        trainer.kill()
    wait_until("the engine's end", lambda: not engine.exists() or "Z" in (engine / "stat").read_text().split()[2])
    (left,) = tmp_path.glob("r2ac-dmlab-*")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened(DMLabConfig(spare_engines=0), streams=1).reset()
    assert not left.exists()
