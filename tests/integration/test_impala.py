"""``algorithm=impala`` as a program: on Ray and in one process, gone on with, evaluated, filmed, reported, swept, and what it refuses."""

import gc
import json
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.wire import split
from actors.worker import ActorIdentity
from conf.load import load_train
from learner.algorithms import find_algorithm
from learner.receipts import Verdict
from r2ac.commands import evaluate, play, report, sweep, train
from r2ac.monitoring.report.runs import group_runs, read_run
from r2ac.monitoring.report.sweep_folder import run_folders
from r2ac.persistence import checkpoint as checkpoints
from r2ac.sweeps.record import read_record
from r2ac.training.build import describe_environment, initial_weights

SMALL = [
    *("experiment=tmaze", "fleet.num_actors=2", "actors.num_envs=16", "actors.unroll=10", "actors.num_cpus=0.5"),
    *("network.num_units=8", "learner.mode=sync", "learner.optimizer=rmsprop", "learner.final_learning_rate=0.01"),
    *("logging=quiet", "logging.interval_steps=320", "fleet.object_store_bytes=80_000_000"),
]
TOY = [*SMALL, "env.corridor=6", "network.encoder=mlp", "network.features=6"]
TBPTT = ["rule=tbptt", "algorithm=impala"]
EXACT = ["rule=segment", "algorithm=impala", "algorithm.options.ship=trajectories_s0"]
ROUND = 2 * 16 * 10
"""Agent steps of an update."""


def trained(run_dir: Path, *words: str) -> checkpoints.Checkpoint:
    assert train.main([*TOY, *words, f"run_dir={run_dir}"]) == 0
    return checkpoints.load(checkpoints.find(run_dir))


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """Those of ``metrics.jsonl``, and the summary as the last."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(text) for text in (*lines, (run_dir / "summary.json").read_text())]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "fleet_of_r2ac"),
    [
        pytest.param([*TBPTT, "actors.pipeline=2"], "local", id="trajectories of groups of streams"),
        pytest.param([*TBPTT, "actors.pipeline=2"], "ray", id="groups of streams, all on Ray", marks=pytest.mark.soak),
        pytest.param(TBPTT, "ray", id="trajectories, all on Ray", marks=pytest.mark.soak),
        pytest.param(EXACT, "ray", id="with sensitivities, all on Ray", marks=pytest.mark.soak),
    ],
)
def test_without_lag_it_ends_on_ray_where_it_ends_in_one_process_and_within_rounding_where_r2ac_ends(
    words: list[str], fleet_of_r2ac: str, tmp_path: Path
):
    """Ten updates. Sums in another order differ by 1e-7 of their largest part, which RMSProp with its epsilon of 0.01 passes on as it is
    (Adam makes a step of it, where the gradient is nearly zero). Among millions of steps, such a difference would let another action be
    sampled, and all that follows would be another run."""
    steps = f"total_steps={10 * ROUND}"
    on_ray = trained(tmp_path / "ray", steps, *words, "fleet=ray")
    local = trained(tmp_path / "local", steps, *words, "fleet=local")
    of_both = [word for word in words if not word.startswith("algorithm")]
    r2ac = trained(tmp_path / "r2ac", steps, *of_both, "algorithm=r2ac", f"fleet={fleet_of_r2ac}")
    assert on_ray.agent_steps == local.agent_steps == r2ac.agent_steps == 10 * ROUND
    assert torch.equal(on_ray.vector, local.vector)
    torch.testing.assert_close(on_ray.vector, r2ac.vector, rtol=1e-5, atol=1e-6)
    config = load_train([*TOY, *words])
    _, first = initial_weights(config, describe_environment(config, print))
    assert float((on_ray.vector - first).abs().max()) > 0.01, "nothing was learned"
    ours, theirs = rows(tmp_path / "ray"), rows(tmp_path / "r2ac")
    assert [row["episodes"] for row in ours] == [row["episodes"] for row in theirs]
    for row in ours:
        assert row["importance_mean"] == pytest.approx(1, abs=1e-4)
        assert 0 <= row["importance_clipped_share"] <= 1
    for row in theirs:
        assert row.get("importance_mean") is None
        assert row.get("importance_clipped_share") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(TBPTT, id="trajectories", marks=pytest.mark.soak),
        pytest.param(EXACT, id="with sensitivities"),
    ],
)
def test_a_run_that_is_stopped_goes_on_bit_for_bit(words: list[str], tmp_path: Path):
    whole = trained(tmp_path / "whole", *words, "fleet=local", f"total_steps={6 * ROUND}")
    half = trained(tmp_path / "parts", *words, "fleet=local", f"total_steps={3 * ROUND}")
    parts = trained(tmp_path / "parts", *words, "fleet=local", f"total_steps={6 * ROUND}")
    assert half.agent_steps == 3 * ROUND
    assert parts.agent_steps == whole.agent_steps == 6 * ROUND
    assert not torch.equal(half.vector, whole.vector)
    assert torch.equal(parts.vector, whole.vector)


@pytest.mark.slow
def test_its_policy_is_evaluated_and_filmed(tmp_path: Path):
    small = ["env.image_size=36", "env.max_frames=40", "network=impala", "network.encoder_options.channels=[2,2]"]
    words = [*SMALL, "fleet=local", "env=atari/breakout", *small, "network.features=8", "actors.num_envs=2", *EXACT]
    assert train.main([*words, "actors.unroll=4", "total_steps=32", f"run_dir={tmp_path}/run"]) == 0
    run = f"checkpoint={tmp_path}/run"
    assert evaluate.main([run, "episodes=2", "num_envs=2", f"output={tmp_path}/score.json"]) == 0
    results = json.loads((tmp_path / "score.json").read_text())["results"]
    assert [(entry["policy"], entry["episodes"]) for entry in results] == [("greedy", 2), ("sampled", 2)]
    assert play.main([run, "steps=4", f"output={tmp_path}/game.gif"]) == 0
    assert (tmp_path / "game.gif").stat().st_size > 0


SWEPT = ["rule=tbptt", "algorithm=r2ac,impala", "seed=1,2"]
FOLDERS = [f"algorithm={algorithm},seed={seed}" for algorithm in ("r2ac", "impala") for seed in (1, 2)]


@pytest.mark.seconds
def test_a_sweep_over_algorithms_has_all_jobs_or_refuses_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("r2ac.sweeps.local.LocalSweep.run", lambda _: 0)
    words = ["sweep_name=tiny", f"run_root={tmp_path}", *TOY, "fleet=local"]
    assert sweep.main([*words, *SWEPT]) == 0
    assert [job.folder for job in read_record(tmp_path / "tiny")] == FOLDERS
    capsys.readouterr()
    assert sweep.main([*words, "sweep_name=exact", "rule=segment", *SWEPT[1:]]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "use algorithm.options.ship=trajectories_s0, or rule=tbptt" in said
    assert not (tmp_path / "exact").exists()


@pytest.mark.soak
def test_a_sweep_over_algorithms_runs_and_its_report_compares_them(tmp_path: Path):
    words = ["sweep_name=tiny", f"run_root={tmp_path}", "jobs=2", *TOY, "fleet=local", f"total_steps={2 * ROUND}"]
    assert sweep.main([*words, *SWEPT]) == 0
    groups = group_runs([read_run(path) for path in run_folders([tmp_path / "tiny"])[0]])
    labels = [(group.label, len(group.runs)) for group in groups]
    assert sorted(labels) == [("tiny algorithm=impala", 2), ("tiny algorithm=r2ac", 2)]
    for name in FOLDERS:
        assert (rows(tmp_path / "tiny" / name)[-1].get("importance_mean") is not None) == ("impala" in name)
    assert report.main([str(tmp_path / "tiny"), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page-importance.png").stat().st_size > 0
    assert "Importance weights" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["rule=segment"],
            "rule segment needs at the learner the sensitivity that each unroll began with: use algorithm",
        ),
        (["rule=snap1"], "rule snap1 needs at the learner the sensitivity"),
        (["algorithm.options.ship=trajectories_s0"], "rule tbptt carries no sensitivity; use trajectories"),
        (
            ["network.core=feedforward", "algorithm.options.ship=trajectories_s0"],
            "network.core=feedforward carries no sensitivity; use trajectories",
        ),
        (["algorithm.options.ship=nonsense"], "ship must be trajectories or trajectories_s0, got nonsense"),
        (["algorithm.options.ship=1"], "ship must be trajectories or trajectories_s0, got 1"),
        (
            ["algorithm.options.sihp=trajectories"],
            "algorithm.options of impala: unknown option 'sihp': did you mean ship?",
        ),
        (
            ["algorithm.options.trace_decay=0.8"],
            "algorithm.options of impala: unknown option 'trace_decay': expected one of ship",
        ),
        (["actors.wire=bfloat16"], "algorithm=impala ships none: use actors.wire=float32"),
        (["network.normalise_observations=true"], "network.normalise_observations=true needs algorithm=stream_ac"),
        (["network.scale_rewards=true"], "the actors of impala do not keep running moments"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_what_it_cannot_do_is_refused_in_one_line_that_says_what_fits(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train.main([*TOY, *TBPTT, *words, f"run_dir={tmp_path}/run"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.seconds
def test_an_object_store_without_room_for_its_trajectories_is_refused_before_ray_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    words = [*SMALL, *TBPTT, "env=atari/breakout", "network=nature", "actors.num_envs=64", "actors.unroll=200"]
    assert train.main([*words, f"run_dir={tmp_path}/run"]) == 2
    said = capsys.readouterr().err
    assert "fleet.object_store_bytes=80000000 has no room for two contributions of each actor" in said
    assert said.count("\n") == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.seconds
@pytest.mark.parametrize(("one", "other"), [("r2ac", "impala"), ("impala", "r2ac")])
def test_a_run_of_another_algorithm_is_not_gone_on_with_and_stays_as_it_is(
    one: str, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["fleet=local", "rule=tbptt"]
    trained(tmp_path / "run", *words, f"algorithm={one}", f"total_steps={ROUND}")
    before = contents(tmp_path)
    capsys.readouterr()
    again = [*TOY, *words, f"algorithm={other}"]
    for steps in (ROUND, 2 * ROUND):  # one that is finished, and one that could go on
        assert train.main([*again, f"run_dir={tmp_path}/run", f"total_steps={steps}"]) == 2
        said = capsys.readouterr().err
        assert (
            f"holds a run with algorithm.name={one}, but this one has {other}: choose another name or run_dir" in said
        )
        assert said.count("\n") == 1, said
    assert train.main([*again, f"run_dir={tmp_path}/new", f"resume={tmp_path}/run", f"total_steps={2 * ROUND}"]) == 2
    said = capsys.readouterr().err
    assert f"was trained with algorithm.name={one}, but this run has {other}" in said
    assert said.count("\n") == 1, said
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} == {"attempts"}


@pytest.mark.parametrize("words", [["rule=tbptt", "algorithm=r2ac"], TBPTT, EXACT], ids=lambda words: words[-1])
def test_what_has_arrived_is_let_go_at_once_and_not_when_python_looks_for_cycles(words: list[str]):
    """Its arrays are the object store's memory: until then it would fill up, the more slowly the fewer other objects are made."""
    config = load_train([*TOY, *words, "learner.batch_segments=1"])
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    algorithm = find_algorithm(config.algorithm)
    plan = algorithm.plan(config, spec, layout)
    learner = plan.resume(plan.first_state(vector))
    worker = partial(algorithm.worker, config)(ActorIdentity(0, 0, 1), None)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            envelope, arrays = split(worker.unroll(learner.snapshot()))
            lasting = [weakref.ref(array) for array in arrays.values()]
            assert lasting
            receipt = learner.add(envelope.enclose(arrays))
            assert receipt.verdict is Verdict.ACCEPTED
            del envelope, arrays
            assert not [one for one in lasting if one() is not None]
    finally:
        gc.enable()
        worker.close()
