"""Pixels standardised by random play: measured once, the same for all, and part of what is trained and saved."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from every_algorithm import IMPALA, R2D2
from local_run import double_precision, local_run
from tape import Tape

from actors.build import build_seeded_network
from actors.graphs import GRAPHS
from conf.load import load_train
from conf.schema import TrainConfig
from r2ac.monitoring.sinks import open_sinks
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import CheckpointError
from r2ac.training import build
from r2ac.training.build import describe_environment, initial_weights, standardise
from r2ac.training.loop import RunHooks, train
from rtrl_core import FlatParameters, WeightsSnapshot
from rtrl_core.encoders import ShallowEncoder
from rtrl_core.shapes import Tensor

pytestmark = pytest.mark.seconds

SMALL = [
    *("experiment=atari_breakout", "fleet=local", "fleet.num_actors=1", "actors.num_envs=2", "actors.unroll=4"),
    *("network.features=8", "network.num_units=6", "learner.batch_segments=2", "learner.warmup_updates=0"),
    *("logging=quiet", "network.standardise_steps=64", "total_steps=64"),
]


def small(*words: str) -> TrainConfig:
    return load_train([*SMALL, *words])


def run(config: TrainConfig, run_dir: Path) -> dict[str, float | int | None]:
    run_dir.mkdir(parents=True, exist_ok=True)
    with open_sinks(config, run_dir, {}) as sinks:
        return train(config, run_dir, sinks, RunHooks())


def measured(config: TrainConfig) -> dict[str, Tensor]:
    """What is standardised by; nothing else of the weights is touched."""
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    before = vector.clone()
    standardise(config, vector, spec, print)
    slots = {slot.name: slot for slot in layout.slots}
    for name, slot in slots.items():
        assert torch.equal(slot.view(vector), slot.view(before)) is not name.startswith("standardised."), name
    return {name: slot.view(vector) for name, slot in slots.items() if name.startswith("standardised.")}


def test_it_is_the_same_for_the_same_seed_and_another_for_another():
    one, again, other = measured(small()), measured(small()), measured(small("seed=2"))
    for name, numbers in one.items():
        assert torch.equal(numbers, again[name])
        assert not torch.equal(numbers, other[name])


def test_as_many_steps_are_played_as_were_asked_for_in_whole_rounds(monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    real = build.play

    def play(*arguments: Any, **options: Any):
        for move in real(*arguments, **options):
            seen.append(len(move.timestep.observation))
            yield move

    monkeypatch.setattr(build, "play", play)
    measured(small("network.standardise_steps=20"))
    assert seen == [8, 8, 8]
    seen.clear()
    measured(small("network.standardise_steps=3"))
    assert seen == [3]


class Standardising(ShallowEncoder):
    """Does it itself, by numbers that it was given."""

    numbers: ClassVar[tuple[Tensor, Tensor]]

    def forward(self, observation: Tensor) -> Tensor:
        scale, shift = self.numbers
        return super().forward((observation.to(scale.dtype) / 255 * scale + shift).clamp(-5, 5))


@pytest.mark.parametrize("activations", ["retain", "recompute"])
def test_what_is_learned_is_what_an_encoder_learns_that_standardises_itself(activations: str):
    words = (f"actors.activations={activations}",)
    config = small(*words)
    own = small(*words, "network.standardise_steps=0", f"network.encoder={__name__}:Standardising")
    with double_precision():
        spec = describe_environment(config, print)
        layout, vector = initial_weights(config, spec)
        # Biases begin at zero, and what never changes is zero: which side of a rectifier's kink it is on would be chance.
        vector += 0.01 * torch.randn(len(vector), generator=torch.Generator().manual_seed(0))
        standardise(config, vector, spec, print)
        found = {slot.name: slot.view(vector) for slot in layout.slots}
        Standardising.numbers = (found["standardised.scale"], found["standardised.shift"])
        here, there = contributions(config, vector), contributions(own, vector)
    for one, other in zip(here, there, strict=True):
        size = len(other)
        torch.testing.assert_close(one[:size], other, rtol=1e-9, atol=1e-12)
        assert other.any()
        assert not one[size:].any()


def contributions(config: TrainConfig, vector: Tensor) -> list[Tensor]:
    """Gradients of two unrolls under the first of these weights."""
    run = local_run(config)
    layout, own = initial_weights(config, run.spec)
    weights = WeightsSnapshot(0, layout.fingerprint, vector[: len(own)].clone())
    try:
        return [run.unroll(0, weights).gradient for _ in range(2)]
    finally:
        run.fleet.close()


def test_a_run_that_goes_on_keeps_what_was_measured_and_an_evaluation_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(small(), tmp_path)
    first = checkpoints.load(checkpoints.find(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(build, "play", None)  # not again
        run(small("total_steps=128"), tmp_path)
    last = checkpoints.load(checkpoints.find(tmp_path))
    assert last.agent_steps > first.agent_steps
    for slot in last.layout.slots:
        assert torch.equal(slot.view(last.vector), slot.view(first.vector)) is slot.name.startswith("standardised.")
    config = last.trusted_config([])
    spec = describe_environment(config, print)
    network = build_seeded_network(config.network, config.rule, spec, 0)
    FlatParameters(network).load(last.vector)
    assert network.standardised is not None
    assert float(network.standardised.scale.max()) > 5


def test_it_comes_with_an_encoder_that_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(small(), tmp_path / "before")
    before = checkpoints.load(checkpoints.find(tmp_path / "before"))
    monkeypatch.setattr(build, "play", None)  # nothing is measured anew
    config = small(f"network.load_encoder={tmp_path}/before", "network.freeze_encoder=true", "seed=5")
    run(config, tmp_path / "after")
    after = checkpoints.load(checkpoints.find(tmp_path / "after"))
    for slot in after.layout.slots:
        if slot.name.startswith(("encoder.", "standardised.")):
            assert torch.equal(slot.view(after.vector), slot.view(before.vector)), slot.name
    without = small(f"network.load_encoder={tmp_path}/before", "network.standardise_steps=0")
    with pytest.raises(
        CheckpointError, match=r"differ in standardised\..*network\.standardise_steps as it was trained"
    ):
        run(without, tmp_path / "other")


STREAM = (
    *("experiment=stream_atari_breakout", "fleet=local", "fleet.num_actors=1", "actors.num_envs=1", "actors.unroll=4"),
    *("network.features=8", "network.num_units=6", "logging=quiet", "network.standardise_steps=64", "total_steps=16"),
)


@pytest.mark.parametrize(
    "words",
    [
        (*SMALL, *IMPALA),
        (*SMALL, *R2D2, "total_steps=200"),
        (*SMALL, "network.critic=separate"),
        (*SMALL, "rule=tbptt", "network.core=lstm"),
        STREAM,
    ],
    ids=["impala", "r2d2", "separate", "dense", "stream"],
)
def test_whatever_learns_keeps_what_was_measured(words: tuple[str, ...], tmp_path: Path):
    config = load_train(words)
    run(config, tmp_path)
    last = checkpoints.load(checkpoints.find(tmp_path))
    assert last.agent_steps >= config.total_steps
    expected = measured(config)
    for slot in last.layout.slots:
        if slot.name.startswith("standardised."):
            assert torch.equal(slot.view(last.vector), expected.pop(slot.name))
    assert not expected


def test_passes_that_are_recorded_standardise_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a tape, where there is no device with graphs."""
    config = small("learner.mode=sync", "total_steps=64")
    plain = run(config, tmp_path / "plain")
    monkeypatch.setitem(GRAPHS, "cpu", Tape)
    taped = run(config, tmp_path / "taped")
    assert (plain["cuda_graphs_share"], taped["cuda_graphs_share"]) == (0.0, 1.0)
    for name in ("policy_loss", "value_loss", "entropy", "gradient_norm_stem", "core_inputs_rms"):
        assert taped[name] == pytest.approx(plain[name], rel=1e-3), name


def test_a_run_says_that_it_plays_and_one_that_does_not_play_says_nothing():
    said: list[str] = []
    for words in ((), ("network.standardise_steps=0",), ("network.encoder=mlp",)):
        config = small(*words)
        spec = describe_environment(config, print)
        standardise(config, initial_weights(config, spec)[1], spec, said.append)
    assert said == ["64 steps of random play, by which pixels are standardised (network.standardise_steps)"]


def test_ones_own_vectors_are_not_played_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build, "play", None)
    config = load_train(["experiment=tmaze", "network.standardise_steps=100", "fleet=local", "logging=quiet"])
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    standardise(config, vector, spec, print)
    assert not [slot for slot in layout.slots if slot.name.startswith("standardised.")]
