"""``algorithm=stream_ac`` through the programs: a run that goes on bit for bit, its evaluation, what it refuses, and that it learns."""

import json
from pathlib import Path

import pytest
import torch

from conf.load import load_train
from r2ac.commands import evaluate, play, train
from r2ac.commands.evaluate import load_network
from r2ac.persistence import checkpoint as checkpoints
from r2ac.training.build import describe_environment
from r2ac.training.parts import require_all_parts

TOY = [
    *("experiment=stream_tmaze", "env.corridor=4", "network.num_units=4", "actors.unroll=20", "logging=quiet"),
    "logging.interval_steps=40",
]


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_and_its_policy_sees_what_it_saw_in_training(tmp_path: Path):
    whole = [*TOY, f"run_dir={tmp_path}/whole"]
    assert train.main([*whole, "total_steps=120"]) == 0
    parts = [*TOY, f"run_dir={tmp_path}/parts"]
    assert train.main([*parts, "total_steps=60"]) == 0
    assert train.main([*parts, "total_steps=120"]) == 0
    one, other = (checkpoints.load(checkpoints.find(tmp_path / name)) for name in ("whole", "parts"))
    assert one.agent_steps == other.agent_steps == 120
    assert torch.equal(one.vector, other.vector)
    for name, traces in one.fleet.actors[0]["agent"].items():
        theirs = other.fleet.actors[0]["agent"][name]
        assert torch.equal(traces, theirs) if isinstance(traces, torch.Tensor) else traces[0].keys() == theirs[0].keys()

    spec = describe_environment(one.config, print)
    moments = load_network(one, one.config, spec, "cpu").observation_moments
    assert moments is not None
    assert float(moments.pairs[0, 0].detach()) == 120 + 1
    assert not torch.equal(moments.moments()[1], torch.ones(3, dtype=torch.float64))

    said = [f"checkpoint={tmp_path}/whole", "episodes=4", f"output={tmp_path}/score.json"]
    assert evaluate.main([*said, "policy=greedy"]) == 0
    assert json.loads((tmp_path / "score.json").read_text())["results"][0]["episodes"] == 4
    row = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert row["policy_lag_max"] == 0
    assert row["gradient_norm_core"] > 0
    assert row["sensitivity_norm"] > 0
    assert row["contributions_dropped"] == row["contributions_refused"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["network.critic=shared", "actors.num_envs=3", "network.core=mingru"],
        pytest.param(
            ["network=mlp", "network.core=feedforward", "rule=tbptt", "network.last_action=true"],
            marks=pytest.mark.soak,
        ),
        pytest.param(
            [
                "network.encoder=stream_mlp",
                "network.features=6",
                "network.core=toy_parts:DenseCell",
                "rule=toy_parts:FullRTRL",
            ],
            marks=pytest.mark.soak,
        ),
    ],
    ids=["shared", "feedforward", "own parts"],
)
def test_it_trains_with_any_network(words: list[str], tmp_path: Path):
    assert train.main([*TOY, *words, "total_steps=60", f"run_dir={tmp_path}"]) == 0
    assert checkpoints.load(checkpoints.find(tmp_path)).agent_steps >= 60


@pytest.mark.slow
def test_a_separate_critic_is_for_any_algorithm(tmp_path: Path):
    words = ["experiment=tmaze", "env.corridor=4", "network.critic=separate", "network.normalise_outputs=true"]
    small = ["network.num_units=4", "actors.num_envs=4", "fleet=local", "fleet.num_actors=1", "logging=quiet"]
    fidelity = ["actors.fidelity_every=1", "learner.mode=sync", "total_steps=120"]
    assert train.main([*words, *small, *fidelity, f"run_dir={tmp_path}"]) == 0
    assert evaluate.main([f"checkpoint={tmp_path}", "episodes=2"]) == 0


@pytest.mark.slow
def test_it_trains_on_pictures_and_begins_new_games_where_they_cannot_be_saved(tmp_path: Path):
    words = ["experiment=stream_atari_breakout", "network.num_units=8", "network.features=8", "actors.unroll=10"]
    run = [*words, "logging=quiet", f"run_dir={tmp_path}/run"]
    assert train.main([*run, "total_steps=20"]) == 0
    assert train.main([*run, "total_steps=40"]) == 0
    last = checkpoints.load(checkpoints.find(tmp_path / "run"))
    assert last.agent_steps >= 40
    slot = next(slot for slot in last.layout.slots if slot.name == "running.returns.pairs")
    assert slot.view(last.vector)[0, 0] == last.agent_steps, "the scale of rewards goes on, though the games do not"
    assert play.main([f"checkpoint={tmp_path}/run", "steps=3", f"output={tmp_path}/x.gif"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fleet.num_actors=2"], "has one actor and no lag, got fleet.num_actors=2 learner.mode=sync"),
        (["fleet.num_actors=null"], "got fleet.num_actors=null learner.mode=sync: add fleet.num_actors=1"),
        (["learner.mode=async"], "got fleet.num_actors=1 learner.mode=async: add fleet.num_actors=1 learner.mode=sync"),
        (["learner.mode=lockstep"], "learner.mode=lockstep"),
        (["actors.wire=bfloat16"], "computes and ships in float32: use actors.wire=float32"),
        (["actors.autocast=bfloat16"], "computes and ships in float32"),
        (["rule.refresh=40"], "rule.refresh=40 needs weights that stand still for an unroll"),
        (["algorithm.options.trace_decay=1.5"], "trace_decay must be from 0 to 1, got 1.5"),
        (["algorithm.options.kappa_actor=0"], "kappa_actor must be above 0"),
        (["algorithm.options.learning_rate=nan"], "learning_rate must be above 0"),
        (["algorithm=r2ac"], "network.normalise_observations=true needs algorithm=stream_ac"),
        (
            ["algorithm=r2ac", "network.normalise_observations=false"],
            "network.scale_rewards=true needs algorithm=stream_ac",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line_that_says_what_fits(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train.main([*TOY, *words, f"run_dir={tmp_path}/run"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_its_experiments_are_ones_that_it_can_do():
    for experiment in ("stream_tmaze", "stream_atari_breakout"):
        config = require_all_parts(load_train([f"experiment={experiment}"]))
        assert config.algorithm.name == "stream_ac"
        assert (config.network.critic, config.network.encoder_init) == ("separate", "sparse")


@pytest.mark.soak
def test_it_learns_what_only_memory_can_tell(tmp_path: Path):
    words = ["experiment=stream_tmaze", "env.corridor=5", "logging=quiet", "total_steps=12_000"]
    assert train.main([*words, f"run_dir={tmp_path}"]) == 0
    row = json.loads((tmp_path / "summary.json").read_text())
    assert row["mean_return_100"] > 0.9
