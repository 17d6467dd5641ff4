"""Somebody's own environment through the whole program: what is learned in every kind of space, and how a bad one ends a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from own_envs import ACTIONS, OBSERVATIONS, Misbehaving

from r2ac.commands.train import main

TOY = [
    "learner.warmup_updates=0",  # a hundred updates are all that these runs have
    *("fleet=local", "fleet.num_actors=1", "actors.num_envs=32", "actors.unroll=1", "learner.batch_segments=32"),
    *("network.encoder=mlp", "network.mlp_sizes=[]", "network.features=16", "network.core=feedforward"),
    *("network.last_reward=false", "loss.entropy_cost=0", "learner.optimizer=adam", "learner.learning_rate=0.02"),
    *("logging=quiet", "logging.interval_steps=1000", "logging.checkpoint_interval_steps=1000000", "name=own"),
]


def trained(*words: str) -> dict[str, Any]:
    """The last row of a run in the current folder."""
    assert main([*TOY, *words]) == 0
    return json.loads((Path("runs") / "own" / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Misbehaving, "happened", 0)


@pytest.mark.slow
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_kind_of_observation_is_learned_from(observation: str):
    picture = "picture" in observation or "truths" in observation
    row = trained(
        *("env=gym/own_envs:Guess-v0", f"env.kwargs.observation='{observation}'"),
        *(
            ["network.encoder=nature", "total_steps=4000", "learner.learning_rate=0.003"]
            if picture
            else ["total_steps=3200"]
        ),
    )
    assert row["episode_return_mean"] > 0.97  # chance is a half


@pytest.mark.slow
@pytest.mark.parametrize("action", ["discrete", "multi-discrete", "multi-binary"])
def test_every_kind_of_choice_is_learned(action: str):
    row = trained(
        "env=gym/own_envs:Guess-v0", f"env.kwargs.action='{action}'", "total_steps=3200", "network.last_action=true"
    )
    assert row["episode_return_mean"] > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("action", [action for action in ACTIONS if action.startswith("[")])
def test_a_box_of_any_bounds_is_solved(action: str):
    row = trained(
        "env=gym/own_envs:Guess-v0", f"env.kwargs.action='{action}'", "total_steps=3200", "network.last_action=true"
    )
    assert row["episode_return_mean"] > 0.97  # without a look at the observation 0.75


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a run that must not succeed says at its end: one line, after one for each restart."""
    assert main([*TOY, "total_steps=320", *words]) == 2
    *restarts, last = capsys.readouterr().err.splitlines()
    assert all(line.startswith("actor 0 restarted (") for line in restarts), restarts
    assert last.startswith("error: ")
    return last


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises when made", "could not be made: RuntimeError no licence for this machine"),
        ("raises at reset", "failed at a reset: KeyError 'map'"),
        ("old reset", "failed at a reset: expected (observation, info)"),
        ("old step", "failed at a step: expected (observation, reward, terminated, truncated, info), got a tuple of 4"),
        ("exits", "failed at a step: it ended its process with sys.exit('the licence has expired')"),
        ("broadcasts", "failed at a step: observation has shape (1,), its space has (3,)"),
        ("nan", "gave stream 0 an observation that is not finite: nan at element 1"),
        ("infinite reward", "gave stream 0 a reward that is not finite: inf"),
    ],
)
def test_an_environment_that_always_fails_ends_the_run_with_one_line(
    how: str, message: str, capsys: pytest.CaptureFixture[str]
):
    said = failed(capsys, "env=gym/own_envs:Misbehaving-v0", f"env.kwargs.how='{how}'", "fleet.max_restarts=2")
    assert "gym/own_envs:Misbehaving-v0 " + message in said
    assert ("gave up after 2 actor restarts within an hour (fleet.max_restarts)" in said) == (
        "step" in message or "finite" in message
    )


def test_a_restart_that_fails_counts_as_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """It was fine when the run began; since its first failure its machine has no licence any more."""
    monkeypatch.setattr(Misbehaving, "fail_when_made_after", 1)
    said = failed(capsys, "env=gym/own_envs:Misbehaving-v0", "env.kwargs.how=raises", "fleet.max_restarts=3")
    assert (
        "gave up after 3 actor restarts within an hour (fleet.max_restarts); the first one was because: gym/own_envs"
        in said
    )
    assert Misbehaving.happened == 1


@pytest.mark.parametrize("how", ["nan", "infinite reward", "exits", "raises"])
def test_one_bad_number_or_step_costs_its_actor_and_not_the_run(how: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Misbehaving, "at_most", 1)
    row = trained("env=gym/own_envs:Misbehaving-v0", f"env.kwargs.how='{how}'", "total_steps=640")
    assert row["agent_steps"] >= 640
    assert (row["actor_restarts"], row["contributions_refused"]) == (1, 0)
