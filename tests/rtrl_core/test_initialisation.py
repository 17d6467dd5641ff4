"""How weights begin."""

import math

import pytest
import torch
from torch import nn

from rtrl_core import NetworkSpec, PolicyNetwork
from rtrl_core.initialisation import initialise_sparsely, sparse_
from rtrl_core.policies import Categorical


@pytest.mark.parametrize(
    ("shape", "kept"),
    [((64, 100), 10), ((32, 4, 8, 8), 25), ((8, 3), 1), ((5, 1), 1), ((7, 27), 2)],
    ids=str,
)
def test_each_unit_keeps_a_tenth_of_its_inputs_and_at_least_one(shape: tuple[int, ...], kept: int):
    weight = torch.full(shape, 5.0)
    sparse_(weight)
    rows, bound = weight.flatten(1), 1 / math.sqrt(weight[0].numel())
    assert ((rows != 0).sum(1) == kept).all()
    assert rows.abs().max() <= bound
    assert rows.abs().max() > bound / 4


def test_units_draw_their_inputs_for_themselves_and_uniformly():
    weight = torch.empty(4000, 20)
    sparse_(weight)
    used = (weight != 0).float().mean(0)
    torch.testing.assert_close(used, torch.full((20,), 0.1), rtol=0, atol=0.02)
    values = weight[weight != 0] * math.sqrt(20)
    torch.testing.assert_close(values.var(), torch.tensor(1 / 3), rtol=0.05, atol=0)


def test_all_layers_begin_so_and_biases_at_zero():
    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Linear(50, 6))
    initialise_sparsely(module)
    for layer in (module[0], module[2]):
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        assert layer.bias is not None
        assert not layer.bias.any()
        assert (layer.weight == 0).float().mean() >= 0.9


def test_a_network_of_sparse_layers_has_sparse_heads_too():
    spec = NetworkSpec((9,), "vector", Categorical(4), encoder="stream_mlp", encoder_init="sparse", num_units=40)
    network = PolicyNetwork(spec)
    layers = [layer for layer in network.encoder.modules() if isinstance(layer, nn.Linear)]
    for layer in (*layers, network.policy_head, network.value_head):
        fan_in = layer.weight.shape[1]
        assert ((layer.weight != 0).sum(1) == max(1, fan_in - math.ceil(0.9 * fan_in))).all()
