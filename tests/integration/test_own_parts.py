"""A user's own cell, rule, encoder, algorithm and environment through the whole program, without touching any file of it."""

import json
from pathlib import Path

import pytest
import torch

from r2ac.commands import evaluate, play, submit, train
from r2ac.persistence import checkpoint as checkpoints

SMALL = [
    *("fleet.num_actors=2", "actors.num_envs=4", "actors.unroll=3", "network.num_units=4", "network.features=5"),
    *("total_steps=240", "logging=quiet", "logging.interval_steps=60", "learner.mode=sync"),
]
OWN = {
    "cell": ["experiment=tmaze", "env.corridor=4", "network.core=toy_parts:LeakCell", "network.core_options.leak=0.5"],
    "dense cell and rule": [
        *("experiment=tmaze", "env.corridor=4", "network.core=toy_parts:DenseCell"),
        *("rule=toy_parts:FullRTRL", "rule.options.scale=1.0"),
    ],
    "cell whose parameters feed one unit each": [
        *("experiment=tmaze", "env.corridor=4", "network.core=toy_parts:PlainRNN", "rule=snap1"),
    ],
    "encoder": [
        *("experiment=tmaze", "env.corridor=4", "network.encoder=toy_parts:ScaledEncoder"),
        "network.encoder_options.scale=2",
    ],
    "algorithm": [
        *("experiment=tmaze", "env.corridor=4", "algorithm=toy_parts:SignedGradients", "algorithm.options.batch=4"),
        "learner.mode=async",
    ],
    "environment": ["env=own_suites:LIGHTS/dim", "network=none"],
    "all of them": [
        *("env=own_suites:LIGHTS", "network.core=toy_parts:DenseCell", "rule=toy_parts:FullRTRL"),
        *("network.encoder=toy_parts:ScaledEncoder", "algorithm=toy_parts:SignedGradients", "learner.mode=async"),
    ],
}
SAID_AGAIN = ("network.core=", "network.encoder=", "rule=", "env=")


def trained(run_dir: Path, *words: str) -> dict:
    assert train.main([*SMALL, *words, f"run_dir={run_dir}"]) == 0
    return json.loads((run_dir / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [part if part in ("cell", "all of them") else pytest.param(part, marks=pytest.mark.soak) for part in OWN]
)
def test_it_trains_goes_on_and_is_evaluated(part: str, tmp_path: Path):
    words = OWN[part]
    run = [*SMALL, *words, "fleet=local", f"run_dir={tmp_path}/run"]
    assert train.main(run) == 0
    first = checkpoints.load(checkpoints.find(tmp_path / "run"))
    assert train.main([*run, "total_steps=480"]) == 0
    second = checkpoints.load(checkpoints.find(tmp_path / "run"))
    assert second.agent_steps >= 480 > first.agent_steps
    assert not torch.equal(first.vector, second.vector)
    again = [word for word in words if word.startswith(SAID_AGAIN) and ":" in word]
    said = [f"checkpoint={tmp_path}/run", "episodes=2", f"output={tmp_path}/score.json", "policy=greedy"]
    assert evaluate.main([*said, *again]) == 0
    assert json.loads((tmp_path / "score.json").read_text())["results"]


@pytest.mark.soak
def test_it_trains_in_processes_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    row = trained(tmp_path / "run", *OWN["all of them"], "fleet=ray", "learner.mode=async")
    assert row["agent_steps"] >= 240
    assert row["actor_restarts"] == 0


@pytest.mark.slow
def test_a_stored_part_is_imported_only_if_it_is_said_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    trained(tmp_path / "run", *OWN["all of them"], "fleet=local", "learner.mode=async")
    capsys.readouterr()
    needed = ["env=own_suites:LIGHTS", "network.core=toy_parts:DenseCell", "network.encoder=toy_parts:ScaledEncoder"]
    for missing in needed:
        others = [word for word in needed if word != missing]
        for program in (evaluate, play):
            words = [f"checkpoint={tmp_path}/run", *others, f"output={tmp_path}/x.gif"]
            assert program.main(words) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1, said
            assert "if you trust it" in said
    assert evaluate.main([f"checkpoint={tmp_path}/run", *needed[:2], "network.encoder=toy_parts:LeakCell"]) == 2
    assert "is not what is stored" in capsys.readouterr().err
    # Whoever only acts needs neither the rule nor the algorithm.
    assert evaluate.main([f"checkpoint={tmp_path}/run", *needed, "episodes=2"]) == 0
    assert "ignored, as it was not said again: rule.name=toy_parts:FullRTRL" in capsys.readouterr().err
    assert play.main([f"checkpoint={tmp_path}/run", *needed, f"output={tmp_path}/x.gif", "steps=3"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["network.core=indrn"], "unknown network.core 'indrn': did you mean indrnn?"),
        (["network.core=toy_parts"], "unknown network.core 'toy_parts'"),
        (["network.core=no_such_module:Cell"], "there is no module no_such_module here"),
        (["network.core=toy_parts:Missing"], "module toy_parts has no 'Missing'"),
        (["network.core=toy_parts:ScaledEncoder"], "expected a subclass of DiagonalCell or RecurrentCell or Core"),
        (["network.encoder=toy_parts:LeakCell"], "expected a subclass of Encoder"),
        (["rule=toy_parts:LeakCell"], "expected a subclass of LearningRule"),
        (["algorithm=toy_parts:LeakCell"], "expected a subclass of Algorithm"),
        (["network.core=mingru", "network.core_options.keep_bais=2"], "network.core_options of mingru: unknown option"),
        (["network.core=mingru", "network.core_options.keep_bias=much"], "network.core_options of mingru: Value"),
        (["network.core_options.size=3", "network.core=feedforward"], "unknown option 'size': it has none"),
        (
            ["network.encoder=impala", "network.encoder_options.channels=[0]"],
            "channels must be 1 to 16 numbers from 1 to 4096",
        ),
        (["rule.options.speed=3"], "rule.options of segment: unknown option 'speed': it has none"),
        (["algorithm.options.speed=3"], "algorithm.options of r2ac: unknown option 'speed': expected one of passes"),
        (["rule=bptt"], "unknown rule 'bptt': did you mean tbptt?"),
        (["network.core=toy_parts:DenseCell"], "rule segment is for diagonal cells only, which DenseCell is not"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = ["experiment=tmaze", "fleet=local", *words, f"run_dir={tmp_path}/run"]
    assert train.main(run) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_job_whose_part_is_not_there_is_not_submitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["job_name=job", f"run_root={tmp_path}", "experiment=tmaze", "network.core=no_such_module:Cell"]
    assert submit.main([*words, "target=slurm", "--dry-run"]) == 2
    assert "there is no module no_such_module here" in capsys.readouterr().err
