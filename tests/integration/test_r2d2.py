"""``algorithm=r2d2`` as a program: on Ray and in one process, gone on with, evaluated, filmed, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from altered_checkpoint import alter
from every_algorithm import R2D2

from learner.memory import total_memory
from r2ac.commands import evaluate, play, report, train
from r2ac.persistence import checkpoint as checkpoints

SMALL = [
    *("experiment=tmaze", *R2D2, "fleet.num_actors=2", "actors.num_envs=8", "actors.unroll=5", "actors.num_cpus=0.5"),
    *("network.num_units=8", "learner.mode=sync", "learner.final_learning_rate=0.01"),
    *("logging=quiet", "logging.interval_steps=320", "fleet.object_store_bytes=80_000_000"),
]
TOY = [*SMALL, "env.corridor=6"]
ROUND = 2 * 8 * 5
"""Agent steps of a round."""


def trained(run_dir: Path, *words: str) -> checkpoints.Checkpoint:
    assert train.main([*TOY, *words, f"run_dir={run_dir}"]) == 0
    return checkpoints.load(checkpoints.find(run_dir))


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_it_ends_on_ray_where_it_ends_in_one_process_and_says_what_it_does(tmp_path: Path):
    on_ray = trained(tmp_path / "ray", f"total_steps={20 * ROUND}", "fleet=ray")
    local = trained(tmp_path / "local", f"total_steps={20 * ROUND}", "fleet=local")
    assert torch.equal(on_ray.vector, local.vector)
    for run in ("ray", "local"):
        last = rows(tmp_path / run)[-1]
        assert last["updates"] > 10
        assert (20 - 6) * 16 <= last["replay_sequences"] <= (20 - 2) * 16  # at the last update
        assert last["td_error"] > 0
        assert last["replay_lag_mean"] > 0
        for name in ("policy_loss", "value_loss", "entropy", "importance_mean"):
            assert last.get(name) is None, "nobody knows that of an unroll"


@pytest.mark.slow
def test_a_run_whose_replay_is_kept_goes_on_bit_for_bit(tmp_path: Path):
    words = ["fleet=local", "algorithm.options.checkpoint_replay=true"]
    whole = trained(tmp_path / "whole", *words, f"total_steps={16 * ROUND}")
    trained(tmp_path / "parts", *words, f"total_steps={9 * ROUND}")
    parts = trained(tmp_path / "parts", *words, f"total_steps={16 * ROUND}")
    assert torch.equal(parts.vector, whole.vector)


@pytest.mark.seconds
def test_nothing_is_too_old_for_it_and_nothing_is_said_of_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["fleet=local", "fleet.num_actors=4", "learner.mode=async", "learner.max_lag=1", "learner.batch_segments=8"]
    trained(tmp_path, *words, "logging.terminal=plain", "total_steps=1600")
    assert "max_lag" not in "".join(capsys.readouterr())
    assert rows(tmp_path)[-1]["contributions_dropped"] == 0
    assert max(row["policy_lag_max"] for row in rows(tmp_path)) > 1


@pytest.mark.slow
def test_a_replay_that_is_not_there_or_does_not_fit_is_filled_anew_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, kept = tmp_path / "run", "algorithm.options.checkpoint_replay=true"
    words = ["fleet=local", "logging.terminal=plain"]
    trained(run, *words, f"total_steps={6 * ROUND}")
    capsys.readouterr()
    assert "replay" in trained(run, *words, kept, f"total_steps={8 * ROUND}").learner
    assert "has no replay, so it is filled anew" in capsys.readouterr().out
    trained(run, *words, kept, f"total_steps={10 * ROUND}")
    assert "filled anew" not in capsys.readouterr().out
    trained(run, *words, kept, "actors.unroll=10", "algorithm.options.burn_in=10", f"total_steps={18 * ROUND}")
    assert "actors.unroll changed since the checkpoint: the replay is filled anew" in capsys.readouterr().out
    assert rows(run)[-1]["updates"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("fleet", ["local", pytest.param("ray", marks=pytest.mark.soak)])
def test_a_replay_that_was_altered_ends_the_run_in_one_line(
    fleet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, kept = tmp_path / "run", "algorithm.options.checkpoint_replay=true"
    trained(run, kept, "fleet=local", f"total_steps={6 * ROUND}")
    alter(checkpoints.find(run), with_first_of_replay(-1))
    capsys.readouterr()
    assert train.main([*TOY, kept, f"fleet={fleet}", f"total_steps={8 * ROUND}", f"run_dir={run}"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("going on at")]
    assert "the checkpoint's replay cannot be used: 'first' in it is nothing that this run could have saved" in error


def with_first_of_replay(number: int) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["structures"]["learner"]["replay"]["chunks"]["first"] = number

    return change


@pytest.mark.slow
def test_what_a_run_began_with_is_not_kept_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A replay may be most of the memory there is."""
    words = ["algorithm.options.checkpoint_replay=true", "fleet=local"]
    trained(tmp_path, *words, f"total_steps={6 * ROUND}")
    loaded: list[checkpoints.Checkpoint] = []
    load = checkpoints.load

    def noted(path: Path) -> checkpoints.Checkpoint:
        loaded.append(load(path))
        return loaded[-1]

    monkeypatch.setattr(checkpoints, "load", noted)
    assert train.main([*TOY, *words, f"total_steps={8 * ROUND}", f"run_dir={tmp_path}"]) == 0
    assert loaded
    assert all(not checkpoint.learner for checkpoint in loaded)


@pytest.mark.slow
def test_its_policy_is_evaluated_reported_and_filmed(tmp_path: Path):
    small = ["env.image_size=36", "env.max_frames=40", "network=impala", "network.encoder_options.channels=[2,2]"]
    words = [*SMALL, "fleet=local", "env=atari/breakout", *small, "network.features=8", "actors.num_envs=2"]
    words += ["network.heads=dueling", "fleet.num_actors=1", "algorithm.options.min_sequences=2"]
    assert train.main([*words, "total_steps=120", f"run_dir={tmp_path}/run"]) == 0
    run = f"checkpoint={tmp_path}/run"
    assert evaluate.main([run, "episodes=2", "num_envs=2", f"output={tmp_path}/score.json"]) == 0
    results = json.loads((tmp_path / "score.json").read_text())["results"]
    assert [(entry["policy"], entry["episodes"]) for entry in results] == [("greedy", 2), ("sampled", 2)]
    assert report.main([f"{tmp_path}/run", "--output", f"{tmp_path}/report.html"]) == 0
    assert "Errors of Q-learning" in (tmp_path / "report.html").read_text()
    for policy in ("greedy", "random"):
        assert play.main([run, "steps=4", f"policy={policy}", f"output={tmp_path}/game.gif"]) == 0
    assert (tmp_path / "game.gif").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rule=segment"], "use rule=tbptt; with algorithm.options.burn_in_gradient=true"),
        (["network.heads=policy"], "add network.heads=dueling"),
        (["network.critic=separate"], "critic=shared"),
        (["algorithm.options.burn_in=7"], "algorithm.options.burn_in=7 is no multiple of actors.unroll=5"),
        (["algorithm.options.length=0"], "length must be from 1 to"),
        (["algorithm.options.epsilon_base=1.5"], "epsilon_base must be from 0 to 1, got 1.5"),
        (["algorithm.options.n_steps=3"], "unknown option 'n_steps': did you mean n_step?"),
        (["rule.refresh=7"], "rule.refresh=7 is no multiple of actors.unroll=5"),
        (["actors.wire=bfloat16"], "algorithm=r2d2 ships none"),
        (["network.scale_rewards=true"], "the actors of r2d2 do not keep running moments"),
        (["fleet=local", f"algorithm.options.replay_bytes={10**15}"], "bytes of memory: set it to"),
        (["algorithm.options.replay_bytes=1000"], "has no room for one sequence of each of 2 actors"),
        (
            [
                *("fleet=local", "algorithm.options.checkpoint_replay=true"),
                f"algorithm.options.replay_bytes={total_memory() * 6 // 10}",
            ],
            "twice while it is saved, but the learner's machine has",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_what_it_cannot_do_is_refused_in_one_line_that_says_what_fits(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train.main([*TOY, *words, f"run_dir={tmp_path}/run"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said


def test_actions_that_cannot_be_counted_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["env=gym/Pendulum-v1", "network=mlp", "network.heads=dueling", "fleet=local", f"run_dir={tmp_path}/run"]
    assert train.main([*SMALL, *words]) == 2
    said = capsys.readouterr().err
    assert "an action of gym/Pendulum-v1 is a vector" in said
    assert said.count("\n") == 1, said
