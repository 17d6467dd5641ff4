"""A network whose critic has an encoder and a core of its own, beside one whose heads share them."""

from typing import Any

import pytest
import torch

from rtrl_core import ELSTM, CoreState, FlatParameters, NetworkSpec, PolicyNetwork
from rtrl_core.cores.side_by_side import SideBySideCore
from rtrl_core.policies import Categorical

OPTIONS: dict[str, Any] = {"encoder": "mlp", "features": 4, "num_units": 3, "last_action": True, "instruction": True}


def make_network(**changes: Any) -> PolicyNetwork:
    torch.manual_seed(2)
    return PolicyNetwork(NetworkSpec((2,), "vector", Categorical(3), **{**OPTIONS, **changes}))


def seen(num_streams: int) -> tuple[torch.Tensor, ...]:
    """Observation, last reward, last action, first steps, instruction."""
    actions, words = torch.randint(0, 3, (num_streams,)), torch.randint(0, 9, (num_streams, 2))
    first = torch.arange(num_streams) % 3 == 0
    return torch.randn(num_streams, 2), torch.randn(num_streams), actions, first, words


@pytest.mark.parametrize("core", ["elstm", "mingru", "feedforward"])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_acting_the_unroll_and_the_value_alone_give_the_same_numbers(critic: str, normalise: bool, core: str):
    network = make_network(critic=critic, normalise_outputs=normalise, core=core)
    state = network.initial_state(5)
    cell, rows, values, logits = state.cell, [], [], []
    for _ in range(4):
        observation, *rest = seen(5)
        inputs = network.core_inputs(network.encode(observation), *rest)
        assert inputs.shape == (5, network.input_size)
        alone = network.value(observation, rest[0], rest[1], rest[2], rest[3], cell)
        output, cell = network.act(inputs, cell, rest[2])
        torch.testing.assert_close(alone, output.values)
        rows.append((inputs.detach(), rest[2]))
        values.append(output.values)
        logits.append(output.parameters)
    whole, _ = network.unroll(torch.stack([row for row, _ in rows]), state, torch.stack([first for _, first in rows]))
    torch.testing.assert_close(whole.values, torch.stack(values))
    torch.testing.assert_close(whole.parameters, torch.stack(logits))


def test_policy_and_value_depend_on_the_parameters_that_are_said_to_train_them_and_on_no_others():
    for critic in ("shared", "separate"):
        network = make_network(critic=critic, instruction=False)
        inputs = network.core_inputs(network.encode(torch.randn(4, 2)), *seen(4)[1:4])
        output, _ = network.unroll(inputs.unsqueeze(0), network.initial_state(4), torch.zeros(1, 4, dtype=torch.bool))
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        trained = {}
        for head, target in (("policy_head", output.parameters), ("value_head", output.values)):
            found = torch.autograd.grad(target.sum(), list(network.parameters()), allow_unused=True, retain_graph=True)
            pairs = zip(found, network.parameters(), strict=True)
            reached = {names[id(p)] for gradient, p in pairs if gradient is not None and gradient.any()}
            trained[head] = {names[id(parameter)] for parameter in network.trained_by(head)}
            vectors = {
                name for name in trained[head] if name.endswith("vectors")
            }  # of a first step, whose past is zero
            assert trained[head] - vectors <= reached <= trained[head], critic
        assert trained["policy_head"] | trained["value_head"] == set(names.values())
        both = trained["policy_head"] & trained["value_head"]
        assert bool(both) == (critic == "shared")
    frozen = make_network(critic="separate")
    frozen.encoder.requires_grad_(False)
    assert not [p for p in frozen.trained_by("policy_head") for q in frozen.encoder.parameters() if p is q]


def test_each_of_two_cores_side_by_side_is_what_it_is_alone():
    actor, critic = ELSTM(3, 4), ELSTM(2, 5)
    both = SideBySideCore(actor, critic)
    assert (both.input_size, both.output_size, both.carries_sensitivity) == (5, 9, True)
    inputs, first = torch.randn(6, 2, 5), torch.rand(6, 2) < 0.3
    weights, state = torch.randn(6, 2, 9), both.initial_state(2)
    gradients, states = [], [actor.initial_state(2), critic.initial_state(2)]
    for rows in (slice(0, 3), slice(3, 6)):
        both.zero_grad()
        outputs, state = both(inputs[rows], state, first[rows])
        (outputs * weights[rows]).sum().backward()
        together = [parameter.grad.clone() for parameter in both.parameters() if parameter.grad is not None]
        gradients = []
        for number, (core, part, of) in enumerate(
            ((actor, slice(0, 3), slice(0, 4)), (critic, slice(3, 5), slice(4, 9)))
        ):
            core.zero_grad()
            alone, states[number] = core(inputs[rows][..., part], states[number], first[rows])
            torch.testing.assert_close(outputs[..., of].detach(), alone.detach())
            (alone * weights[rows][..., of]).sum().backward()
            gradients += [parameter.grad.clone() for parameter in core.parameters() if parameter.grad is not None]
        for one, other in zip(together, gradients, strict=True):
            torch.testing.assert_close(one, other)
    assert isinstance(state, CoreState)
    assert both.stream_norms(state.sensitivity) is not None


def test_nothing_of_it_changes_a_network_that_does_not_ask_for_it():
    plain, asking = make_network(), make_network(normalise_observations=True, scale_rewards=True)
    ours, theirs = FlatParameters(plain).layout, FlatParameters(asking).layout
    assert theirs.slots[: len(ours.slots)] == ours.slots
    assert [slot.name for slot in theirs.slots[len(ours.slots) :]] == [
        "running.observations.pairs",
        "running.returns.pairs",
    ]
    assert [slot.name for slot in ours.slots if slot.name.startswith("running.")] == []
