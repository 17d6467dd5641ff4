"""Encoders, policy network, losses, distributions and the flat layout."""

import math

import pytest
import torch

from rtrl_core import FlatParameters, NetworkSpec, ParameterLayout, PolicyNetwork, actor_critic_losses, clip_rewards
from rtrl_core.cores import core_names
from rtrl_core.policies import Categorical, DiagonalGaussian, FactoredCategorical
from rtrl_core.returns import VTrace


def make_network(**changes) -> PolicyNetwork:
    options = {
        "observation_shape": (4, 84, 84),
        "layout": "CHW",
        "actions": Categorical(6),
        "encoder": "nature",
        "num_units": 16,
    }
    return PolicyNetwork(NetworkSpec(**{**options, **changes}))


@pytest.mark.parametrize(
    ("encoder", "shape", "layout"),
    [
        ("impala", (4, 84, 84), "CHW"),
        ("impala", (64, 64, 3), "HWC"),
        ("impala", (72, 96, 3), "HWC"),
        ("nature", (4, 84, 84), "CHW"),
        ("mlp", (7,), "vector"),
    ],
)
@pytest.mark.parametrize("core", core_names())
def test_acting_step_by_step_equals_the_unroll(encoder, shape, layout, core):
    network = make_network(
        encoder=encoder, observation_shape=shape, layout=layout, core=core, rule="tbptt", last_action=True
    )
    image = torch.randint(0, 255, (3, 2, *shape), dtype=torch.uint8)
    observations = image if layout != "vector" else image.float()
    is_first = torch.tensor([[True, True], [False, True], [False, False]])
    rewards, actions = torch.randn(3, 2), torch.randint(0, 6, (3, 2))
    inputs = torch.stack(
        [
            network.core_inputs(network.encode(o), r, a, f)
            for o, r, a, f in zip(observations, rewards, actions, is_first, strict=True)
        ]
    )
    output, _ = network.unroll(inputs, network.initial_state(2), is_first)
    cell = network.initial_state(2).cell
    for t in range(3):
        step, cell = network.act(inputs[t], cell, is_first[t])
        torch.testing.assert_close(step.parameters, output.parameters[t].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(step.values, output.values[t].detach(), rtol=1e-4, atol=1e-5)


def test_the_core_input_is_256_features_and_the_reward():
    assert make_network(encoder="impala").input_size == 257


def test_the_first_step_of_an_episode_sees_neither_the_last_reward_nor_the_last_action():
    network = make_network(last_action=True)
    features = torch.zeros(2, 256)
    inputs = network.core_inputs(features, torch.ones(2), torch.tensor([3, 3]), torch.tensor([True, False]))
    assert not inputs[0].any()
    assert inputs[1, 256] == 1
    assert inputs[1, 257:].tolist() == [0, 0, 0, 1, 0, 0]


def test_images_of_both_layouts_mean_the_same():
    torch.manual_seed(0)
    rows_first = make_network(encoder="impala", observation_shape=(64, 64, 3), layout="HWC")
    torch.manual_seed(0)
    channels_first = make_network(encoder="impala", observation_shape=(3, 64, 64), layout="CHW")
    image = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    torch.testing.assert_close(rows_first.encode(image), channels_first.encode(image.permute(0, 3, 1, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet"}, "unknown encoder 'resnet'"),
        ({"core": "rnn"}, "unknown core 'rnn'"),
        ({"rule": "bptt"}, "unknown rule 'bptt'"),
        ({"observation_shape": (4,), "layout": "vector"}, "use network.encoder=mlp"),
        ({"observation_shape": (4, 20, 20)}, "at least 36x36"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_words(changes, message):
    with pytest.raises(ValueError, match=message):
        make_network(**changes)


def test_parameters_and_gradients_are_views_of_two_vectors():
    network = make_network()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    flat = FlatParameters(network)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
    flat.load(torch.full_like(flat.vector, 0.5))
    assert all((parameter == 0.5).all() for parameter in network.parameters())
    network.encode(torch.zeros(1, 4, 84, 84, dtype=torch.uint8)).sum().backward()
    assert flat.gradient.abs().sum() > 0
    with pytest.raises(ValueError, match="weights of another network"):
        flat.load(torch.zeros(3))


def test_the_layout_covers_every_parameter_once_and_names_its_parts():
    network = make_network()
    layout = ParameterLayout.of(network)
    covered = torch.zeros(layout.size)
    for slot in layout.slots:
        slot.view(covered).add_(1)
    assert covered.max() == 1
    assert int(covered.sum()) == sum(parameter.numel() for parameter in network.parameters())
    assert {slot.name for slots in layout.parts().values() for slot in slots} == {
        name for name, _ in network.named_parameters()
    }
    network.add_module("auxiliary_head", torch.nn.Linear(3, 2))
    network.register_parameter("temperature", torch.nn.Parameter(torch.ones(1)))
    parts = ParameterLayout.of(network).parts()
    names = [slot.name for slots in parts.values() for slot in slots]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())  # each once
    assert {slot.name.split(".")[0] for slot in parts["heads"]} == {
        "policy_head",
        "value_head",
        "auxiliary_head",
        "temperature",
    }
    assert layout.fingerprint == ParameterLayout.of(make_network()).fingerprint
    assert layout.fingerprint != ParameterLayout.of(make_network(num_units=17)).fingerprint


def test_losses_are_sums_and_leave_out_what_is_no_transition():
    distribution = Categorical(3)
    parameters, values = torch.randn(4, 2, 3), torch.randn(4, 2)
    returns = VTrace(torch.randn(4, 2), torch.randn(4, 2))
    actions = torch.randint(0, 3, (4, 2))

    def total(valid: torch.Tensor) -> torch.Tensor:
        return actor_critic_losses(
            distribution=distribution,
            parameters=parameters,
            values=values,
            actions=actions,
            returns=returns,
            valid=valid,
            entropy_cost=0.01,
            baseline_cost=0.5,
        ).total

    everything = total(torch.ones(4, 2, dtype=torch.bool))
    one_by_one = torch.zeros(())
    for t in range(4):
        for b in range(2):
            valid = torch.zeros(4, 2, dtype=torch.bool)
            valid[t, b] = True
            one_by_one = one_by_one + total(valid)
    torch.testing.assert_close(one_by_one, everything)
    log_policy = parameters.log_softmax(-1)
    by_hand = (
        -(log_policy.gather(-1, actions[..., None]).squeeze(-1) * returns.advantages).sum()
        + 0.25 * (returns.targets - values).square().sum()
        + 0.01 * (log_policy.exp() * log_policy).sum()
    )
    torch.testing.assert_close(everything, by_hand)


@pytest.mark.parametrize("distribution", [Categorical(3), DiagonalGaussian(2)], ids=["discrete", "continuous"])
def test_what_a_row_that_is_no_transition_holds_reaches_neither_loss_nor_gradient(distribution):
    parameters, values = torch.randn(4, 2, distribution.num_parameters), torch.randn(4, 2)
    returns = VTrace(torch.randn(4, 2), torch.randn(4, 2))
    actions = distribution.sample(parameters)
    valid = torch.tensor([[True, False], [True, True], [False, True], [True, True]])

    def loss_and_gradients(poison: float) -> list[torch.Tensor]:
        def poisoned(tensor: torch.Tensor) -> torch.Tensor:
            tensor = tensor.clone()
            if tensor.is_floating_point():
                tensor[~valid] = poison
            return tensor

        leaves = [poisoned(parameters).requires_grad_(), poisoned(values).requires_grad_()]
        losses = actor_critic_losses(
            distribution=distribution,
            parameters=leaves[0],
            values=leaves[1],
            actions=poisoned(actions),
            returns=VTrace(*(poisoned(part) for part in returns)),
            valid=valid,
            entropy_cost=0.01,
            baseline_cost=0.5,
        )
        losses.total.backward()
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert not any(gradient[~valid].any() for gradient in gradients)
        return [part.detach() for part in losses] + gradients

    clean = loss_and_gradients(0.5)
    for poison in (math.nan, math.inf, -math.inf):
        for ours, expected in zip(loss_and_gradients(poison), clean, strict=True):
            assert torch.equal(ours, expected)


def test_rewards_are_clipped_as_asked():
    rewards = torch.tensor([-10.0, -0.5, 0.0, 0.5, 10.0])
    assert clip_rewards(rewards, "none").tolist() == rewards.tolist()
    assert clip_rewards(rewards, "abs_one").tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    squashed = clip_rewards(rewards, "asymmetric")
    torch.testing.assert_close(squashed[4], 5 * torch.tanh(torch.tensor(2.0)))
    torch.testing.assert_close(squashed[0], -0.3 * 5 * torch.tanh(torch.tensor(2.0)))
    with pytest.raises(ValueError, match="unknown reward clipping"):
        clip_rewards(rewards, "log")


def test_the_gaussian_agrees_with_torch():
    distribution = DiagonalGaussian(3)
    parameters = torch.randn(5, 6)
    mean, log_scale = parameters.chunk(2, -1)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_scale.clamp(-5, 2).exp()), 1)
    actions = distribution.sample(parameters, torch.Generator().manual_seed(0))
    torch.testing.assert_close(distribution.log_prob(parameters, actions), theirs.log_prob(actions))
    torch.testing.assert_close(distribution.entropy(parameters), theirs.entropy())


@pytest.mark.parametrize("sizes", [(3, 2, 5), (2, 2, 2, 2), (1, 4), (6,)])
def test_several_choices_are_independent_categoricals(sizes: tuple[int, ...]):
    distribution = FactoredCategorical(sizes)
    parameters = torch.randn(4, 7, sum(sizes), requires_grad=True)
    actions = distribution.sample(parameters, torch.Generator().manual_seed(0))
    parts = parameters.split(sizes, -1)
    each = [Categorical(size) for size in sizes]
    alone = [actions[..., k] for k in range(len(sizes))]
    assert actions.shape == (4, 7, len(sizes))
    assert all(int(choice.max()) < size for choice, size in zip(alone, sizes, strict=True))
    log_prob = sum((d.log_prob(p, a) for d, p, a in zip(each, parts, alone, strict=True)), torch.zeros(4, 7))
    entropy = sum((d.entropy(p) for d, p in zip(each, parts, strict=True)), torch.zeros(4, 7))
    torch.testing.assert_close(distribution.log_prob(parameters, actions), log_prob)
    torch.testing.assert_close(distribution.entropy(parameters), entropy)
    encoded = torch.cat([d.encode(a) for d, a in zip(each, alone, strict=True)], -1)
    assert torch.equal(distribution.encode(actions), encoded)
    assert encoded.shape[-1] == distribution.encoding_size
    modes = torch.stack([d.mode(p) for d, p in zip(each, parts, strict=True)], -1)
    assert torch.equal(distribution.mode(parameters), modes)
    ours = torch.autograd.grad((log_prob + entropy).sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad(
        (distribution.log_prob(parameters, actions) + distribution.entropy(parameters)).sum(), parameters
    )
    torch.testing.assert_close(ours, theirs)


def test_several_choices_are_drawn_with_their_own_probabilities():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0]).expand(20_000, 5)
    actions = FactoredCategorical((3, 2)).sample(logits, torch.Generator().manual_seed(0))
    for choice, part in zip(actions.unbind(-1), logits[0].split((3, 2)), strict=True):
        torch.testing.assert_close(choice.bincount() / 20_000, part.softmax(-1), atol=0.015, rtol=0)


def test_float_images_are_read_as_the_bytes_they_stand_for():
    network = make_network()
    bytes_ = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    torch.testing.assert_close(network.encode(bytes_ / 255), network.encode(bytes_))


def test_actions_are_drawn_with_the_probabilities_of_the_policy():
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(20_000, 3)
    actions = Categorical(3).sample(logits, torch.Generator().manual_seed(0))
    torch.testing.assert_close(actions.bincount() / 20_000, logits[0].softmax(-1), atol=0.015, rtol=0)
