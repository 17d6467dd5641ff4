"""What other people's loops do with backward: twice, over two unrolls at once, under checkpointing, many times before one step."""

from typing import Any

import pytest
import torch
from plain_layer import assert_close, gradients, plain_outputs
from torch import nn
from torch.utils.checkpoint import checkpoint
from toy_parts import DenseCell, FullRTRL

from rtrl_core import RTRL

T, B, D, H = 5, 3, 4, 6
UNROLLS = 3


def problem():
    inputs = torch.randn(UNROLLS, T, B, D, dtype=torch.float64)
    is_first = torch.rand(UNROLLS, T, B) < 0.15
    return inputs, is_first


def whole(layer: RTRL, inputs, is_first, loss=torch.sin) -> list[torch.Tensor]:
    """Autograd through whole episodes."""
    loss(plain_outputs(layer, inputs.flatten(0, 1), is_first.flatten(0, 1))).sum().backward()
    return gradients(layer)


RULES = pytest.mark.parametrize("rule", ["segment", "reference"])


@RULES
def test_two_backward_calls_on_one_unroll_add_up_two_losses(rule: str):
    layer = RTRL(D, H, rule=rule, dtype=torch.float64)
    inputs, is_first = problem()
    state = None
    for x, first in zip(inputs, is_first, strict=True):
        outputs, state = layer(x, state, first)
        outputs.sin().sum().backward(retain_graph=True)
        outputs.square().sum().backward()
    assert_close(gradients(layer), whole(layer, inputs, is_first, lambda h: h.sin() + h.square()))


@RULES
@pytest.mark.parametrize("steps", [1, T])
def test_one_backward_over_all_unrolls_is_that_of_each(rule: str, steps: int):
    layer = RTRL(D, H, rule=rule, dtype=torch.float64)
    inputs, is_first = problem()
    inputs, is_first = inputs[:, :steps], is_first[:, :steps]
    state, losses = None, []
    for x, first in zip(inputs, is_first, strict=True):
        outputs, state = layer(x, state, first)
        losses.append(outputs.sin().sum())
    torch.stack(losses).sum().backward()
    assert_close(gradients(layer), whole(layer, inputs, is_first))


@RULES
def test_backward_calls_in_any_order_and_after_later_unrolls_are_right(rule: str):
    layer = RTRL(D, H, rule=rule, dtype=torch.float64)
    inputs, is_first = problem()
    state, losses = None, []
    for x, first in zip(inputs, is_first, strict=True):
        outputs, state = layer(x, state, first)
        losses.append(outputs.sin().sum())
    for number in (1, 2, 0):
        losses[number].backward()
    assert_close(gradients(layer), whole(layer, inputs, is_first))


CHECKPOINTED: dict[str, dict[str, Any]] = {
    "segment": {},
    "reference": {"rule": "reference"},
    "derivatives by forward mode": {"cell": "indrnn"},
    "two layers": {"num_layers": 2},
    "dense": {"cell": DenseCell, "rule": FullRTRL()},
}


def through_checkpoints(layer: RTRL, encoder: nn.Module, inputs, is_first, **how) -> list[torch.Tensor]:
    state = None
    for x, first in zip(inputs, is_first, strict=True):
        features = encoder(x)
        outputs, state = checkpoint(layer, features, state, first, **how) if how else layer(features, state, first)
        outputs.sin().sum().backward()
    return [*gradients(layer), *gradients(encoder)]


@pytest.mark.parametrize("kind", CHECKPOINTED)
def test_checkpointing_changes_no_number(kind: str):
    layer, encoder = RTRL(D, H, dtype=torch.float64, **CHECKPOINTED[kind]), nn.Linear(D, D).double()
    inputs, is_first = problem()
    expected = through_checkpoints(layer, encoder, inputs, is_first)
    if kind not in ("two layers", "dense"):
        assert_close(expected[:-2], whole(layer, encoder(inputs).detach(), is_first))
    assert_close(through_checkpoints(layer, encoder, inputs, is_first, use_reentrant=True), expected, rtol=1e-12)
    if kind == "dense":  # its rule takes Jacobians by torch.func, which torch refuses there: an error, no wrong number
        with pytest.raises(RuntimeError, match="don't yet support saved tensor hooks"):
            through_checkpoints(layer, encoder, inputs, is_first, use_reentrant=False)
    else:
        assert_close(through_checkpoints(layer, encoder, inputs, is_first, use_reentrant=False), expected, rtol=1e-12)


def test_several_unrolls_before_one_step_are_one_gradient():
    layer = RTRL(D, H, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    inputs, is_first = problem()
    before = [parameter.clone() for parameter in layer.parameters()]
    state = None
    for x, first in zip(inputs, is_first, strict=True):
        outputs, state = layer(x, state, first)
        outputs.sin().sum().backward()
    assert all(map(torch.equal, before, layer.parameters()))
    ours = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    optimizer.step()
    after = [parameter.detach().clone() for parameter in layer.parameters()]
    assert_close(after, [old.detach() - 0.1 * gradient for old, gradient in zip(before, ours, strict=True)], 1e-12)
    for parameter, old in zip(layer.parameters(), before, strict=True):
        parameter.data.copy_(old)
    optimizer.zero_grad()
    assert_close(ours, whole(layer, inputs, is_first))


def test_a_step_between_unroll_and_backward_is_an_error_and_no_wrong_number():
    layer = RTRL(D, H)
    outputs, _ = layer(torch.randn(T, B, D))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_gradients_can_be_asked_for_without_filling_grad():
    layer = RTRL(D, H, dtype=torch.float64)
    inputs, is_first = problem()
    _, state = layer(inputs[0], None, is_first[0])
    outputs, _ = layer(inputs[1], state, is_first[1])
    asked = torch.autograd.grad(outputs.sin().sum(), list(layer.parameters()), retain_graph=True)
    assert all(parameter.grad is None for parameter in layer.parameters())
    outputs.sin().sum().backward()
    assert_close(list(asked), gradients(layer), rtol=1e-14)


def test_second_derivatives_are_refused():
    layer = RTRL(D, H)
    outputs, _ = layer(torch.randn(T, B, D))
    first = torch.autograd.grad(outputs.sin().sum(), list(layer.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first[0].sum().backward()
