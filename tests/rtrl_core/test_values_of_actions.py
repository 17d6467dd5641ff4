"""``QValues`` and the dueling heads that give them."""

import pytest
import torch
from torch import nn

from rtrl_core import PolicyNetwork
from rtrl_core.network import NetworkSpec
from rtrl_core.policies import QValues


def counted(epsilon: float | torch.Tensor, draws: int = 40_000) -> torch.Tensor:
    """How often each of four actions is sampled in each of two streams, of which the values are largest in the third and the first."""
    values = torch.tensor([[0.0, -1.0, 3.0, 1.0], [5.0, 1.0, 2.0, 3.0]])
    policy, generator = QValues(4), torch.Generator().manual_seed(1)
    policy.epsilon = epsilon
    actions = torch.stack([policy.sample(values, generator) for _ in range(draws)])
    return torch.stack([(actions == action).float().mean(0) for action in range(4)], 1)


def test_a_sampled_action_is_the_best_one_or_with_the_streams_own_probability_any():
    shares = counted(torch.tensor([0.4, 0.1]))
    expected = torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.925, 0.025, 0.025, 0.025]])
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.01)
    assert counted(0.0, 50).max(1).values.tolist() == [1, 1]


def test_an_evaluation_samples_by_chance_in_a_thousandth_of_its_steps():
    shares = counted(QValues(4).epsilon)
    torch.testing.assert_close(shares.max(1).values, torch.full((2,), 0.99925), rtol=0, atol=0.0006)
    assert (shares.max(1).values < 1).any()


@pytest.mark.parametrize("sizes", [(), (7,), (7, 6)])
def test_values_of_actions_are_the_value_and_what_each_is_worth_beside_it(sizes: tuple[int, ...]):
    spec = NetworkSpec((5,), "vector", QValues(4), encoder="none", num_units=6, heads="dueling", head_sizes=sizes)
    network = PolicyNetwork(spec)
    hidden = torch.randn(9, 6)

    def through(head: nn.Module) -> torch.Tensor:
        parameters, layer = dict(head.named_parameters()), hidden
        for number in range(len(sizes)):
            prefix = f"hidden.{2 * number}"
            layer = (layer @ parameters[f"{prefix}.weight"].T + parameters[f"{prefix}.bias"]).relu()
        return layer @ parameters["weight"].T + parameters["bias"]

    value, beside = through(network.value_head), through(network.policy_head)
    found = network.heads(hidden).parameters
    torch.testing.assert_close(found, value + beside - beside.mean(-1, keepdim=True))
    torch.testing.assert_close(found.mean(-1, keepdim=True), value)


def test_a_network_that_acts_evenly_prefers_nothing():
    spec = NetworkSpec((5,), "vector", QValues(4), encoder="none", num_units=6, heads="dueling", head_sizes=(7,))
    network = PolicyNetwork(spec)
    with torch.no_grad():
        network.act_evenly()
    values = network.heads(torch.randn(3000, 6)).parameters
    actions = network.distribution.sample(values, torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.bincount(actions, minlength=4) / 3000, torch.full((4,), 0.25), rtol=0, atol=0.04)
