"""A recurrent cell of your own: one forward function, and every learning rule, sensitivity and agent works with it.

    python examples/own_cell.py [run folder]

The same on the command line, from this folder: ``rtrl-train experiment=tmaze network.core=own_cell:DecayCell fleet=local``.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import torch

from rtrl_core import DiagonalCell, DiagonalCore
from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class DecayCell(DiagonalCell):
    """``c_t = sigmoid(w) * c_{t-1} + tanh(W x_t + b)``: each unit forgets at a rate that it learns.

    Its fields are its options: ``network.core_options.memory=100``. It states no derivatives: the forward-mode default supplies them.
    """

    gate_names: ClassVar[tuple[str, ...]] = ("input",)
    vector_names: ClassVar[tuple[str, ...]] = ("decay", "bias")

    memory: float = 50.0
    """Steps over which a new network remembers."""

    def forward(
        self,
        state: Float[Tensor, "*batch N"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*batch N"]:
        return torch.sigmoid(vectors[..., 0, :]) * state + torch.tanh(gates[..., 0, :] + vectors[..., 1, :])

    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        with torch.no_grad():
            matrices.normal_(std=0.1)
            vectors[0] = torch.logit(torch.tensor(1 - 1 / self.memory))
            vectors[1] = 0


def disagreement(unrolls: tuple[int, ...] = (3, 4, 5)) -> float:
    """Largest difference between the gradient by these unrolls and that of the whole sequence at once, relative to the largest."""
    torch.manual_seed(0)
    core = DiagonalCore(input_size=3, num_units=4, cell=DecayCell()).double()
    inputs, is_first = torch.randn(sum(unrolls), 2, 3).double(), torch.zeros(sum(unrolls), 2, dtype=torch.bool)
    gradients = []
    for lengths in (unrolls, (sum(unrolls),)):
        core.zero_grad()
        state, start = core.initial_state(2), 0
        for length in lengths:
            rows = slice(start, start + length)
            outputs, state = core(inputs[rows], state, is_first[rows])
            outputs.sin().sum().backward()
            start += length
        assert core.matrices.grad is not None
        gradients.append(core.matrices.grad.clone())
    return float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())


def main(run_dir: str = "runs/own_cell") -> int:
    """Compares gradients, then trains an agent with the cell; returns the exit status."""
    from r2ac.commands import train

    print(f"gradient by unrolls against the whole sequence: {disagreement():.1e} apart")
    return train.main(
        [
            *("experiment=tmaze", "env.corridor=10", "actors.unroll=3", "network.core=own_cell:DecayCell"),
            *("network.core_options.memory=20", "network.num_units=32", "fleet=local", "fleet.num_actors=1"),
            *("logging=quiet", "total_steps=30_000", f"run_dir={run_dir}"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
