"""Evaluation: which games count, by which policy, on which splits, and what becomes of the numbers."""

import importlib.util
import json
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from counting_env import EPISODE, CountingEnv

from actors import evaluation
from actors.build import build_seeded_network
from actors.evaluation import Score, evaluate
from conf.env_schema import AtariConfig
from conf.knobs import ConfigError
from conf.schema import NetworkConfig, RuleConfig
from envs.base import EnvSpec, Timestep
from envs.dmlab.levels import BY_NAME, DMLAB30
from envs.registry import find_suite, make_env
from r2ac.commands import play, train
from r2ac.commands.evaluate import describe_scores, main, suite_scores
from r2ac.persistence import checkpoint as checkpoints
from rtrl_core import PolicyNetwork

STANDINS = Path(__file__).parents[2] / "standins"
NETWORK = NetworkConfig(encoder="none", num_units=4)


class Levels(CountingEnv):
    """Even streams are of one level, odd ones of another."""

    def step(self, actions: np.ndarray) -> Timestep:
        return super().step(actions)._replace(level=np.arange(self.num_envs, dtype=np.int64) % 2)


class Lives(CountingEnv):
    """A game has three lives: every third episode's end is the game's, the others are only the learner's."""

    def step(self, actions: np.ndarray) -> Timestep:
        before = self._episode.copy()
        timestep = super().step(actions)
        return timestep._replace(life_lost=(timestep.terminated | timestep.truncated) & (before % 3 != 2))


def network_for(env: CountingEnv) -> PolicyNetwork:
    return build_seeded_network(NETWORK, RuleConfig(), env.spec, seed=1)


def returns_by_episode(env: CountingEnv) -> dict[int, list[float]]:
    """From the ledger: per stream, the return of each episode that ended."""
    totals: dict[tuple[int, int], float] = defaultdict(float)
    ended: dict[int, list[float]] = defaultdict(list)
    for stream, episode, step, terminated, truncated in env.ledger:
        totals[stream, episode] += EPISODE * episode + step
        if terminated or truncated:
            ended[stream].append(totals[stream, episode])
    return ended


@pytest.mark.parametrize("habit", ["same_step", "next_step"])
def test_every_stream_plays_the_same_number_of_games_however_long_they_are(habit: Literal["same_step", "next_step"]):
    env = CountingEnv(6, 5, habit=habit)
    score = evaluate(network_for(env), env, episodes=22, greedy=False, reward_clip="none", seed=1)
    expected = returns_by_episode(env)
    assert score.returns == [value for stream in range(6) for value in expected[stream][:4]]
    assert len(score.returns) == len(score.lengths) == 24
    assert max(len(games) for games in expected.values()) > 4, "no stream was done early"


def test_a_lost_life_does_not_end_a_game():
    env = Lives(2, 3)
    score = evaluate(network_for(env), env, episodes=4, greedy=True, reward_clip="abs_one", seed=1)
    lives = returns_by_episode(env)
    assert score.returns == [sum(lives[stream][3 * game : 3 * game + 3]) for stream in range(2) for game in range(2)]


def test_returns_are_kept_by_level():
    env = Levels(4, 2)
    score = evaluate(network_for(env), env, episodes=8, greedy=True, reward_clip="none", seed=1)
    spec = EnvSpec("suite/all", (3,), "float32", "vector", env.spec.actions, levels=("even", "odd"))
    result = describe_scores(find_suite("tmaze"), [score], spec, "episodes", greedy=True)
    expected = returns_by_episode(env)
    for level, streams in {"even": (0, 2), "odd": (1, 3)}.items():
        values = [value for stream in streams for value in expected[stream][:2]]
        assert result["level_returns"][level] == pytest.approx(np.mean(values))


def test_a_game_without_end_is_given_up():
    env = CountingEnv(1, 1, lengths=(50, 50))
    with pytest.raises(ConfigError, match="did not end within 20 steps: raise max_steps"):
        evaluate(network_for(env), env, episodes=1, greedy=True, reward_clip="none", seed=1, max_steps=20)


@pytest.mark.seconds
def test_greedy_play_takes_the_likeliest_action_and_sampled_play_repeats_with_its_seed():
    def actions(greedy: bool, seed: int) -> list[int]:
        env = CountingEnv(1, 1)
        network = network_for(env)
        with torch.no_grad():
            network.policy_head.weight.zero_()
            network.policy_head.bias.copy_(torch.tensor([0.0, 0.5, 0.2]))
        moves = evaluation.play(network, env, greedy=greedy, reward_clip="none", seed=seed)
        return [int(move.action[0]) for move in islice(moves, 40)]

    assert set(actions(greedy=True, seed=1)) == {1}
    assert set(actions(greedy=False, seed=1)) == {0, 1, 2}
    assert actions(greedy=False, seed=1) == actions(greedy=False, seed=1) != actions(greedy=False, seed=2)


@pytest.mark.seconds
def test_a_greedy_policy_that_never_presses_fire_is_done_with_breakout_within_a_few_hundred_steps():
    env = make_env(AtariConfig(name="breakout"), 2, 1)
    network = build_seeded_network(
        NetworkConfig(encoder="nature", features=4, num_units=4), RuleConfig(), env.spec, seed=1
    )
    with torch.no_grad():
        network.policy_head.weight.zero_()
        network.policy_head.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    score = evaluate(network, env, episodes=4, greedy=True, reward_clip="abs_one", seed=1, max_steps=400)
    env.close()
    assert len(score.returns) == 4
    assert 50 < max(score.lengths) < 400


def test_runs_are_counted_together_and_their_spread_apart():
    spec = EnvSpec("atari/breakout", (3,), "float32", "vector", CountingEnv(1, 1).spec.actions)
    result = describe_scores(
        find_suite("atari"), [Score([1.0, 3.0], [5, 5], []), Score([4.0, 8.0], [5, 9], [])], spec, "games", greedy=False
    )
    assert (result["episodes"], result["mean_return"], result["mean_length"]) == (4, 4.0, 6.0)
    assert (result["run_means"], result["std_of_runs"]) == ([2.0, 6.0], 2.0)
    assert result["std_return"] == pytest.approx(np.std([1, 3, 4, 8]))
    assert result["human_normalised"] == pytest.approx(100 * (4.0 - 1.7) / (30.5 - 1.7))


def test_the_score_of_dmlab_30_caps_each_level_and_needs_all_of_them():
    results = [{"split": level.name, "policy": "greedy", "returns": [level.human, level.human]} for level in DMLAB30]
    assert suite_scores(find_suite("dmlab30").suite_score, results) == {"dmlab30_greedy": pytest.approx(100.0)}
    watermaze = BY_NAME["rooms_watermaze"]
    for result in results:
        if result["split"] == "rooms_watermaze":
            result["returns"] = [watermaze.random, watermaze.human]  # half way: 50 %
        if result["split"] == "rooms_keys_doors_puzzle":
            result["returns"] = [1000.0]  # far above a human: 100 % all the same
    assert suite_scores(find_suite("dmlab30").suite_score, results) == {
        "dmlab30_greedy": pytest.approx((29 * 100 + 50) / 30)
    }
    assert suite_scores(find_suite("dmlab30").suite_score, results[1:]) == {}
    assert suite_scores(find_suite("dmlab").suite_score, results) == {}


@pytest.mark.seconds
def test_a_run_is_judged_by_its_last_checkpoint_and_by_the_best_only_if_that_is_asked_for(tmp_path: Path):
    words = ["env=tmaze", "env.corridor=3", "network=none", "fleet=local", "logging=quiet", "fleet.num_actors=1"]
    sizes = ["actors.num_envs=2", "actors.unroll=3", "logging.checkpoint_interval_steps=12", "total_steps=36"]
    assert train.main([*words, *sizes, f"run_dir={tmp_path}/run"]) == 0
    first, *_, last = checkpoints.available(tmp_path / "run")
    lucky = checkpoints.load(first)
    lucky.score = 1e9
    checkpoints.save(tmp_path / "run", lucky, keep=9)

    def played(*more: str) -> str:
        output = tmp_path / "scores.json"
        assert main([f"checkpoint={tmp_path}/run", "episodes=2", "num_envs=2", f"output={output}", *more]) == 0
        return json.loads(output.read_text())["checkpoint"]

    assert played() == str(last)
    assert played("which=best") == str(first) != str(last)
    for program, more in ((main, []), (play.main, ["steps=1", f"output={tmp_path}/a.gif"])):
        assert program([f"checkpoint={tmp_path}/run", "which=newest", *more]) == 2
    named = play.what_to_play(play.PlayConfig(checkpoint=f"{tmp_path}/run", which="best"), [])[1]
    assert named is not None
    assert named[0].score == 1e9
    assert play.what_to_play(play.PlayConfig(checkpoint=f"{tmp_path}/run"), [])[1] != named


@pytest.fixture(scope="module")
def starpilot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("procgen") is None:
        pytest.skip("procgen-mirror has no wheel for this Python")
    run_dir = tmp_path_factory.mktemp("starpilot")
    words = ["env=procgen/starpilot", "env.mode=easy", "network=impala", "fleet=local", "logging=quiet"]
    sizes = ["fleet.num_actors=1", "actors.num_envs=2", "actors.unroll=3", "network.num_units=8", "network.features=8"]
    assert train.main([*words, *sizes, "total_steps=12", f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.mark.slow
def test_one_command_plays_all_splits_of_a_procgen_run(
    starpilot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "scores.json"
    words = [f"checkpoint={starpilot}", "episodes=2", "num_envs=2", "runs=2", "policy=sampled", f"output={output}"]
    assert main(words) == 0
    document = json.loads(output.read_text())
    assert [result["split"] for result in document["results"]] == ["train", "test 1000", "test 1200", "test 1400"]
    for result in document["results"]:
        assert result["episodes"] == len(result["returns"]) == 4
        assert len(result["run_means"]) == 2
        assert result["mean_return"] == pytest.approx(np.mean(result["returns"]))
        assert result["mean_length"] > 1
    table = capsys.readouterr().out
    assert "procgen/starpilot" in table
    assert "test 1400" in table


@pytest.mark.slow
def test_a_document_that_cannot_be_written_is_refused_before_anything_is_played(
    starpilot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for output in (tmp_path, tmp_path / "nowhere" / "scores.json"):
        assert main([f"checkpoint={starpilot}", f"output={output}"]) == 2
        assert f"output={output}: expected a file in a folder that exists" in capsys.readouterr().err


@pytest.mark.slow
def test_dmlab_levels_are_played_one_after_the_other_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.setenv("FAKE_LAB", "{}")
    levels = ["rooms_watermaze", "rooms_collect_good_objects_train"]
    words = ["env=dmlab30", f"env.levels=[{','.join(levels)}]", "network=impala", "fleet=local", "logging=quiet"]
    sizes = ["fleet.num_actors=1", "actors.num_envs=2", "actors.unroll=3", "network.num_units=8", "network.features=8"]
    assert train.main([*words, *sizes, "total_steps=12", f"run_dir={tmp_path}/run"]) == 0
    output = tmp_path / "scores.json"
    assert main([f"checkpoint={tmp_path}/run", "episodes=4", "num_envs=2", "runs=2", f"output={output}"]) == 0
    document = json.loads(output.read_text())
    assert [(result["split"], result["policy"]) for result in document["results"]] == [
        (name, "greedy") for name in levels
    ]
    for result in document["results"]:
        level = BY_NAME[result["split"]]
        expected = 100 * (result["mean_return"] - level.random) / (level.human - level.random)
        assert result["human_normalised"] == pytest.approx(expected)
        assert (result["episodes"], len(result["run_means"])) == (8, 2)
    assert "dmlab30_greedy" not in document  # two levels are not thirty
    assert "rooms_collect_good_objects_train" in capsys.readouterr().out
