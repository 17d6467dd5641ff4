"""A backward pass over the kept activations of several steps gives what one over each of them gives."""

import gc
import weakref
from typing import Any

import pytest
import torch
from counting_env import CountingEnv
from local_run import double_precision
from torch import nn
from toy_actor import make_actor, present_weights

from actors import stem as stems
from actors.stem import JoinedStem, RetainedStem, StemPass, StepInput, choose_stem, join_passes
from conf.schema import NetworkConfig, RuleConfig
from envs.tmaze import TMaze
from rtrl_core import ENCODERS, FlatParameters, NetworkSpec, PolicyNetwork
from rtrl_core.encoders import Encoder
from rtrl_core.policies import Categorical
from rtrl_core.rules import SegmentRule

SHAPES = {"vector": (7,), "CHW": (4, 60, 60), "HWC": (60, 60, 3)}


def network_for(encoder: type[Encoder], layout: str, instruction: bool = False) -> PolicyNetwork:
    spec = NetworkSpec(
        observation_shape=SHAPES[layout],
        layout=layout,
        actions=Categorical(3),
        encoder=encoder,
        features=6,
        num_units=4,
        rule=SegmentRule(),
        instruction=instruction,
    )
    return PolicyNetwork(spec)


def steps_of(network: PolicyNetwork, streams: int, count: int) -> list[StepInput]:
    shape, layout = network.spec.observation_shape, network.spec.layout
    drawn = torch.Generator().manual_seed(1)

    def observation() -> torch.Tensor:
        if layout == "vector":
            return torch.randn(streams, *shape, generator=drawn)
        return torch.randint(0, 255, (streams, *shape), generator=drawn, dtype=torch.uint8)

    words = torch.randint(0, 99, (streams, 5), generator=drawn) if network.spec.instruction else None
    actions, flags = torch.zeros(streams, dtype=torch.int64), torch.zeros(streams, dtype=torch.bool)
    return [StepInput(observation(), torch.zeros(streams), actions, flags, words) for _ in range(count)]


def gradient_through(stem: Any, network: PolicyNetwork, steps: list[StepInput], weigh: float = 1.0) -> torch.Tensor:
    parameters = FlatParameters(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(weigh)
    outputs = torch.stack([stem.inputs(step) for step in steps])
    assert not outputs.requires_grad
    stem.backward(torch.linspace(-1, 1, outputs.numel()).view_as(outputs))
    found = parameters.gradient.clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.div_(weigh)
    parameters.gradient.zero_()
    return found


PAIRS = [
    (name, layout)
    for name, encoder in ENCODERS.items()
    for layout in SHAPES
    if (layout == "vector") == (name in ("mlp", "none", "stream_mlp")) and name != "none"
]


@pytest.mark.parametrize(("encoder", "layout"), PAIRS)
def test_joined_and_apart_are_the_same_number_for_number(encoder: str, layout: str):
    with double_precision():
        network = network_for(ENCODERS[encoder], layout)
        FlatParameters(network)
        steps = steps_of(network, 3, 7)
        forward = StemPass(network, None)
        stem = choose_stem(network, activations="retain", budget_bytes=0, autocast=None, passes=7, example=steps[0])
        if encoder != "impala":  # of whose maps one step may be all that stays in the cache
            assert isinstance(stem, JoinedStem)
        for rows in (1, 6, 9, 21, 100):
            passes = join_passes(forward, steps[0])
            assert passes is not None
            joined = JoinedStem(forward, passes, rows)
            for weigh in (1.0, 1.3):  # weights change in place between two unrolls
                apart = gradient_through(RetainedStem(forward), network, steps, weigh)
                ours = gradient_through(joined, network, steps, weigh)
                assert (ours - apart).abs().max() <= 1e-12 * apart.abs().max()


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_in_few_bits_they_differ_by_rounding(autocast: torch.dtype | None):
    network = network_for(ENCODERS["nature"], "CHW")
    FlatParameters(network)
    steps = steps_of(network, 3, 4)
    forward = StemPass(network, autocast)
    passes = join_passes(forward, steps[0])
    assert passes is not None
    apart = gradient_through(RetainedStem(forward), network, steps)
    ours = gradient_through(JoinedStem(forward, passes, 12), network, steps)
    assert (ours - apart).abs().max() <= (0.03 if autocast else 1e-5) * apart.abs().max()


def test_trying_leaves_gradients_as_they_are():
    network = network_for(ENCODERS["mlp"], "vector")
    parameters = FlatParameters(network)
    (step,) = steps_of(network, 3, 1)
    assert join_passes(StemPass(network, None), step) is not None
    assert not parameters.gradient.any()
    parameters.gradient.fill_(3.0)
    assert join_passes(StemPass(network, None), step) is not None
    assert (parameters.gradient == 3).all()


class _Hidden(torch.autograd.Function):
    """Keeps its input where nobody who replaces what a graph keeps would find it."""

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.given = given.detach().clone()
        return given * weight

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return upstream, (upstream * ctx.given).sum(0)


class KeepsPastAutograd(Encoder):
    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, shape[0], options)
        self.weight = nn.Parameter(torch.ones(shape[0]))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return _Hidden.apply(observation, self.weight)  # pyright: ignore[reportReturnType]


class LooksAcrossRows(Encoder):
    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        self.layers = nn.Sequential(nn.Linear(shape[0], features), nn.BatchNorm1d(features))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.layers(observation)


@pytest.mark.parametrize("shown", ["different", "the same in every stream", "nothing"])
@pytest.mark.parametrize(("encoder", "streams"), [(KeepsPastAutograd, 1), (KeepsPastAutograd, 3), (LooksAcrossRows, 3)])
def test_what_cannot_be_joined_is_gone_back_over_step_by_step(encoder: type[Encoder], streams: int, shown: str):
    """Whatever the games show when the actor starts."""
    network = network_for(encoder, "vector")
    FlatParameters(network)
    (step,) = steps_of(network, streams, 1)
    if shown == "the same in every stream":
        step.observation[:] = step.observation[0].clone()
    elif shown == "nothing":
        step.observation.zero_()
    stem = choose_stem(network, activations="retain", budget_bytes=0, autocast=None, passes=4, example=step)
    assert isinstance(stem, RetainedStem)


def test_so_is_a_reader_of_instructions():
    """Its library packs what it keeps in ways of its own."""
    network = network_for(ENCODERS["mlp"], "vector", instruction=True)
    FlatParameters(network)
    (step,) = steps_of(network, 3, 1)
    stem = choose_stem(network, activations="retain", budget_bytes=0, autocast=None, passes=4, example=step)
    assert isinstance(stem, RetainedStem)


def test_few_rows_are_joined_and_many_are_not(monkeypatch: pytest.MonkeyPatch):
    network = network_for(ENCODERS["mlp"], "vector")
    forward = StemPass(network, None)
    (few,), (many,) = steps_of(network, 3, 1), steps_of(network, 100, 1)
    assert stems.joined_rows(forward, few) == stems.joined_rows(forward, many) == 128
    options = {"activations": "retain", "budget_bytes": 0, "autocast": None, "passes": 4}
    assert isinstance(choose_stem(network, **options, example=few), JoinedStem)
    assert isinstance(choose_stem(network, **options, example=many), RetainedStem)
    monkeypatch.setitem(stems.JOINED_BYTES, "cpu", 2 * stems.saved_bytes(forward, few))
    assert stems.joined_rows(forward, few) == 6
    monkeypatch.setitem(stems.JOINED_BYTES, "cpu", stems.saved_bytes(forward, few))
    assert isinstance(choose_stem(network, **options, example=few), RetainedStem)


def test_weights_do_not_count_as_activations():
    network = network_for(ENCODERS["mlp"], "vector")
    forward = StemPass(network, None)
    (one,), (two,) = steps_of(network, 1, 1), steps_of(network, 2, 1)
    apart = stems.saved_bytes(forward, one)
    FlatParameters(network)  # from here on each weight's memory is that of all
    assert stems.saved_bytes(forward, one) == apart
    assert stems.saved_bytes(forward, two) == 2 * apart


def test_the_example_is_not_kept():
    network = network_for(ENCODERS["mlp"], "vector")
    FlatParameters(network)
    (step,) = steps_of(network, 3, 1)
    held = weakref.ref(step.observation)
    stem = choose_stem(network, activations="retain", budget_bytes=0, autocast=None, passes=4, example=step)
    assert isinstance(stem, JoinedStem)
    del step
    assert held() is None


def test_a_stem_that_nobody_holds_is_freed_with_its_graphs():
    actor = make_actor(TMaze(4, 1, corridor=3), network=NetworkConfig(encoder="mlp", mlp_sizes=[8], features=5))
    assert isinstance(actor.stem, JoinedStem)
    actor.unroll(present_weights(actor))
    held = weakref.ref(actor.stem._joined._graphs[16]._output)
    del actor
    gc.collect()
    assert held() is None


def test_unequal_groups_are_joined_too():
    envs = [CountingEnv(3, 1), CountingEnv(2, 1, first_stream=3)]
    actor = make_actor(envs, unroll=5, rule_config=RuleConfig("segment"))
    assert isinstance(actor.stem, JoinedStem)
    assert actor.unroll(present_weights(actor)).gradient.isfinite().all()
