"""What "untruncated" holds for: one recurrent layer on given inputs. Of a stack it holds for the top; below, credit ends at the unroll."""

import pytest
import torch

from rtrl_core import ELSTM

STEPS, STREAMS = 40, 4


def stacked_gradients(layers: list[ELSTM], inputs, is_first, weights, length: int) -> list[torch.Tensor]:
    """Flat gradients of each layer, lowest first, over unrolls of ``length`` steps."""
    states = [layer.initial_state(STREAMS) for layer in layers]
    for layer in layers:
        layer.zero_grad()
    for start in range(0, STEPS, length):
        rows, hidden = slice(start, start + length), inputs[start : start + length]
        for number, layer in enumerate(layers):
            hidden, states[number] = layer(hidden, states[number], is_first[rows])
        (weights[rows] * hidden.sin()).sum().backward()
    return [
        torch.cat([parameter.grad.flatten() for parameter in layer.parameters() if parameter.grad is not None])
        for layer in layers
    ]


@pytest.mark.seconds
def test_of_two_stacked_layers_the_upper_is_exact_and_the_lower_loses_what_crosses_an_unroll():
    """README and docs/how-it-works.md say by how much: 10 to 50 %, the shorter the unroll the more."""
    layers = [ELSTM(3, 8).double(), ELSTM(8, 8).double()]
    inputs = torch.randn(STEPS, STREAMS, 3, dtype=torch.float64)
    weights = torch.randn(STEPS, STREAMS, 8, dtype=torch.float64)
    is_first = torch.zeros(STEPS, STREAMS, dtype=torch.bool)
    is_first[0] = True
    exact_lower, exact_upper = stacked_gradients(layers, inputs, is_first, weights, STEPS)
    errors = []
    for length in (20, 10, 5, 1):
        lower, upper = stacked_gradients(layers, inputs, is_first, weights, length)
        torch.testing.assert_close(upper, exact_upper, rtol=1e-9, atol=1e-12)
        errors.append(float((lower - exact_lower).norm() / exact_lower.norm()))
    assert errors == sorted(errors)
    assert 0.1 < errors[0] < errors[-1] < 0.5
