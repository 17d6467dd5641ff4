"""The oracle of the layer: its own parameters, step by step through whole episodes, under nothing but autograd."""

import torch

from rtrl_core import RTRL, DiagonalCore, GatedCore, StackedCore


def plain_outputs(layer: RTRL, inputs: torch.Tensor, is_first: torch.Tensor) -> torch.Tensor:
    """What a layer of gated diagonal cells gives for ``[T, B, D]``; all layers side by side where it gives all of them."""
    outputs, cores = [], layer.core.layers if isinstance(layer.core, StackedCore) else [layer.core]
    for core in cores:
        inputs = _plain(core, inputs, is_first)
        outputs.append(inputs)
    return torch.cat(outputs, -1) if layer.outputs == "all" else inputs


def _plain(gated: torch.nn.Module, inputs: torch.Tensor, is_first: torch.Tensor) -> torch.Tensor:
    assert isinstance(gated, GatedCore)
    core = gated.core
    assert isinstance(core, DiagonalCore)
    state, outputs = inputs.new_zeros(inputs.shape[1], core.num_units), []
    for x, first in zip(inputs, is_first, strict=True):
        state = torch.where(first[:, None], torch.zeros_like(state), state)
        gates = torch.stack([x @ matrix.t() for matrix in core.matrices], dim=1)
        state = core.cell.forward(state, gates, core.vectors)
        outputs.append(torch.sigmoid(gated.gate(torch.cat([x, state], -1))) * state)
    return torch.stack(outputs)


def gradients(module: torch.nn.Module) -> list[torch.Tensor]:
    """Taken, so that the next ones begin at zero."""
    found = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    module.zero_grad()
    return found


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], rtol: float = 1e-9) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * 1e-3)
