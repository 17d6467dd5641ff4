"""LSTM and GRU under every rule that fits, through the whole program: they train, go on where they were, and are evaluated."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_actor import make_actor, present_weights

from actors.parts import core_part
from conf.load import load_train
from envs.tmaze import TMaze
from r2ac.commands import evaluate, train
from r2ac.monitoring.sinks import Sinks
from r2ac.persistence import checkpoint as checkpoints
from r2ac.training.loop import RunHooks
from r2ac.training.loop import train as train_in_process

RULES = ("tbptt", "snap1", "leak", "uoro", "dense")
TOY = [
    *("experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=2", "actors.num_envs=4"),
    *("network.num_units=4", "network.encoder=mlp", "network.features=3", "logging=quiet", "learner.mode=sync"),
    "logging.checkpoint_interval_steps=48",
]


def every_one(*quick: tuple[str, str, int]):
    """Cell x rule x length of an unroll; those that are not named are for the long tests."""
    combinations = product(("lstm", "gru"), RULES, (1, 3))
    return [pytest.param(*each, marks=[] if each in quick else pytest.mark.soak) for each in combinations]


@pytest.mark.parametrize(
    ("core", "rule", "unroll"),
    every_one(("lstm", "snap1", 1), ("lstm", "uoro", 3), ("lstm", "dense", 3), ("gru", "uoro", 1), ("gru", "leak", 3)),
)
def test_an_actor_goes_on_bit_for_bit_from_its_saved_state(core: str, rule: str, unroll: int):
    straight = make_actor(TMaze(3, 1, corridor=4), unroll=unroll, core=core, rule=rule)
    weights = present_weights(straight)
    for _ in range(3):
        straight.unroll(weights)
    state = straight.get_state()
    assert state is not None
    resumed = make_actor(TMaze(3, 99, corridor=4), unroll=unroll, core=core, rule=rule)
    resumed.set_state({**state, "now": {name: np.array(value) for name, value in state["now"].items()}})
    for _ in range(3):
        ours, theirs = straight.unroll(weights), resumed.unroll(weights)
        assert torch.equal(ours.gradient, theirs.gradient)
        assert (ours.statistics.sensitivity_norm > 0) is (rule != "tbptt")


@pytest.mark.seconds
@pytest.mark.parametrize(("core", "rule", "unroll"), every_one(("lstm", "uoro", 3)))
def test_a_run_that_goes_on_ends_where_it_would_have_ended(core: str, rule: str, unroll: int, tmp_path: Path):
    words = [*TOY, f"network.core={core}", f"rule={rule}", f"actors.unroll={unroll}"]
    for run_dir, steps in (("straight", (96,)), ("resumed", (48, 96))):
        for total_steps in steps:
            config = load_train([*words, "total_steps=96", "learner.learning_rate=0.01"])
            hooks = StopsAt(total_steps)
            (tmp_path / run_dir).mkdir(exist_ok=True)
            train_in_process(config, tmp_path / run_dir, Sinks([], lambda _: None), hooks)
    straight, resumed = (checkpoints.load(checkpoints.find(tmp_path / name)) for name in ("straight", "resumed"))
    assert straight.agent_steps == resumed.agent_steps >= 96
    assert torch.equal(straight.vector, resumed.vector)


class StopsAt(RunHooks):
    """Stops a run in the middle: it is asked after every row."""

    def __init__(self, total_steps: int) -> None:
        self._left = 2 if total_steps < 96 else None

    def should_stop(self) -> bool:
        if self._left is not None:
            self._left -= 1
        return self._left is not None and self._left < 0


@pytest.mark.seconds
@pytest.mark.parametrize(
    "words",
    [["network.core=lstm", "network.core_options.forget_bias=3", "rule=snap1"], ["network.core=gru", "rule=uoro"]],
)
def test_a_dense_agent_trains_and_is_evaluated(words: list[str], tmp_path: Path):
    run = [*TOY, *words, "total_steps=48", f"run_dir={tmp_path}/run"]
    assert train.main(run) == 0
    said = [f"checkpoint={tmp_path}/run", "episodes=2", f"output={tmp_path}/score.json", "policy=greedy"]
    assert evaluate.main(said) == 0
    assert json.loads((tmp_path / "score.json").read_text())["results"]


def test_the_forget_bias_of_the_network_is_that_of_an_lstm():
    biases = [
        core_part(load_train([*TOY, "network.core=lstm", "rule=tbptt", *words]).network)[1].forget_bias
        for words in (["network.forget_bias=2"], ["network.forget_bias=2", "network.core_options.forget_bias=3"])
    ]
    assert biases == [2.0, 3.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["network.core=lstm"],
            "rule segment is for diagonal cells only, which LSTMCell is not: use rule=tbptt, snap1, leak, uoro or dense",
        ),
        (["network.core=gru", "rule=reference"], "which GRUCell is not: use rule=tbptt, snap1, leak, uoro or dense"),
        (
            ["network.core=lstm", "rule=dense", "network.num_units=512"],
            "at most 256 MB are expected, which fewer units (network.num_units) need: use rule=tbptt, snap1, leak or uoro",
        ),
        (
            ["network.core=toy_parts:DenseCell", "rule=snap1"],
            "rule snap1 is for cells of the kind UnitwiseCell, which DenseCell is not: use rule=tbptt, uoro or dense",
        ),
        (
            ["rule=snap1"],
            "rule snap1 is not for diagonal cells such as ELSTMCell: use rule=segment, reference or tbptt",
        ),
        (
            ["network.core=lstm", "rule=tbptt", "network.core_options.forget_bais=3"],
            "network.core_options of lstm: unknown option 'forget_bais': did you mean forget_bias?",
        ),
        (
            ["network.core=gru", "rule=tbptt", "network.core_options.forget_bias=3"],
            "network.core_options of gru: unknown option 'forget_bias': it has none",
        ),
        (
            ["network.core=lstm", "rule=tbptt", "network.core_options.forget_bias=nan"],
            "network.core_options of lstm: forget_bias must be from -100 to 100, got nan",
        ),
        (
            ["network.core=lstm", "rule=tbptt", "network.core_options.input_bias=-101"],
            "network.core_options of lstm: input_bias must be from -100 to 100, got -101",
        ),
        (
            ["network.core=lstm", "rule=uoro", "rule.options.seed=-1"],
            "rule.options of uoro: seed must be from 0 to 2^63",
        ),
        (["network.core=lstm", "rule=uoro", "rule.options.sede=3"], "rule.options of uoro: unknown option 'sede'"),
    ],
)
def test_parts_that_do_not_fit_are_one_line_before_anything_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train.main([*TOY, *words, f"run_dir={tmp_path}/run"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "run" / "config.yaml").exists()
