"""Networks with the layer in them, trained compiled and not: ``python compiled_layer.py [device=cuda] CASE...`` ends in an error where
they differ.

A program of its own, because what checks annotations in tests cannot be compiled.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from plain_layer import assert_close, gradients
from torch import nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounter

from rtrl_core import ELSTM, RTRL, carried

UNROLLS, T, B, D, H = 6, 4, 3, 5, 4
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "segment": ("eager", {}),
    "through-autograd": ("aot_eager", {}),
    "reference": ("eager", {"rule": "reference"}),
    "stacked-tbptt": ("eager", {"rule": "tbptt", "num_layers": 2, "batch_first": True}),
    "inductor": ("inductor", {}),
}


class Agent(nn.Module):
    """What people compile: a network with the layer somewhere inside, here in two places."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.encoder = nn.Linear(D, D)
        self.lower, self.upper = RTRL(D, H, **options), RTRL(H, H)
        self.head = nn.Linear(H, 2)

    def forward(self, inputs, states, is_first):
        lower, upper = (None, None) if states is None else states
        features = torch.tanh(self.encoder(inputs))
        if self.lower.batch_first:
            hidden, lower = self.lower(features.transpose(0, 1), lower, is_first.transpose(0, 1))
            hidden = hidden.transpose(0, 1)
        else:
            hidden, lower = self.lower(features, lower, is_first)
        hidden, upper = self.upper(torch.relu(hidden), upper, is_first)
        return self.head(hidden), (lower, upper)


def trained(module: nn.Module, call: Callable[..., Any], inputs, is_first, state):
    """Outputs of all unrolls, what is carried at the end, and the gradient at every unroll."""
    numbers = []
    for x, first in zip(inputs, is_first, strict=True):
        outputs, state = call(x, state, first)
        outputs.sin().sum().backward()
        numbers += [outputs.detach(), *gradients(module)]
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.99)  # weights change between unrolls, as they do in training
    return [*numbers, *carried.leaves(state)]


def compare(make: Callable[[], nn.Module], backend: Any, start: Callable[[Any], Any], device: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    inputs = torch.randn(UNROLLS, T, B, D, dtype=torch.float64).to(device)
    is_first = (torch.rand(UNROLLS, T, B) < 0.2).to(device)
    results = []
    for compiled in (False, True):
        torch.manual_seed(1)
        module = make().to(device, torch.float64)
        call = torch.compile(module, backend=backend) if compiled else module
        results.append(trained(module, call, inputs, is_first, start(module)))
    assert_close(results[1], results[0], rtol=1e-12)


def refuses_a_whole_graph() -> None:
    torch._dynamo.reset()  # code that it has given up on before it runs as it is, and does not refuse again
    layer = RTRL(D, H)
    try:
        torch.compile(layer, backend="eager", fullgraph=True)(torch.randn(T, B, D))
    except Unsupported:
        return
    raise AssertionError("a whole graph was made of what no compiler can see through")


def compiles_once() -> None:
    torch._dynamo.reset()
    counter, layer, encoder = CompileCounter(), RTRL(D, H), nn.Linear(D, D)

    @torch.compile(backend=counter)
    def run(inputs, state, is_first, lengths):
        outputs, state = layer(encoder(inputs), state, is_first, lengths)
        return outputs.exp(), state

    state, frames = None, []
    for number in range(20):
        lengths = [T, 2, 1] if number % 2 else None
        outputs, state = run(torch.randn(T, B, D), state, torch.rand(T, B) < 0.3, lengths)
        outputs.sum().backward()
        frames.append(counter.frame_count)
    assert frames[4:] == frames[-1:] * 16, frames


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    # The compiler looks at it itself, and hides the warning unless warnings are errors.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    device = names.pop(0).removeprefix("device=") if names[0].startswith("device=") else "cpu"
    for name in names:
        if name.startswith("core-"):
            rule = name.removeprefix("core-")
            compare(lambda: ELSTM(D, H, rule), "aot_eager", lambda core: core.initial_state(B), device)  # noqa: B023
        elif name in CASES:
            backend, options = CASES[name]
            compare(lambda: Agent(**options), backend, lambda module: None, device)  # noqa: B023
        else:
            {"whole-graph": refuses_a_whole_graph, "once": compiles_once}[name]()
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
