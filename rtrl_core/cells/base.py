"""What a diagonal recurrent cell has to state: its forward function; its local derivatives if it has them in closed form.

A cell is element-wise, ``c_t = phi(c_{t-1}, u_{1,t} .. u_{K,t}; p_1 .. p_P)`` with ``u_{k,t} = W_k x_t``: unit ``n`` sees only
its own state, its own gate inputs and its own parameters. That is what makes exact RTRL cost no more than the parameters
themselves. Learning rules, sensitivities and scans are written once, for every cell.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch.func import jvp, vmap

from rtrl_core.shapes import Float, Tensor


class LocalDerivatives(NamedTuple):
    """Derivatives of ``phi`` at one or many steps; each tensor has the shape of the state."""

    state: Tensor
    """``a = dphi/dc_{t-1}``."""
    gates: tuple[Tensor, ...]
    """``g_k = dphi/du_k``, one per gate."""
    vectors: tuple[Tensor, ...]
    """``q_p = dphi/dp``, one per parameter vector."""

    def at(self, t: int) -> "LocalDerivatives":
        """The derivatives of step ``t`` alone."""
        return LocalDerivatives(self.state[t], tuple(g[t] for g in self.gates), tuple(q[t] for q in self.vectors))


class DiagonalCell(ABC):
    """An element-wise recurrence. Subclasses hold constants only; parameters are passed in."""

    gate_names: ClassVar[tuple[str, ...]]
    vector_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def forward(
        self,
        state: Float[Tensor, "*batch N"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*batch N"]:
        """``phi``: next state from the previous one. Must be element-wise in the last axis, and out of place."""

    @abstractmethod
    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Fills the parameters in place from torch's global generator."""

    def derivatives(
        self, state: Float[Tensor, "*batch N"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        """Local derivatives at ``state`` (the previous state, after any reset).

        The default is one vectorised forward-mode pass of ``forward``, ``1 + K + P`` tangents wide. A cell on the fast path
        overrides it with its closed form; the tests hold the two equal.
        """
        num_gates, num_vectors = gates.shape[-2], vectors.shape[-2]
        batch = state.shape[:-1]
        arguments = (state, gates, vectors.expand(*batch, num_vectors, state.shape[-1]).clone())
        directions = 1 + num_gates + num_vectors
        one_hot = torch.eye(directions, dtype=state.dtype, device=state.device)

        def tangent(direction: Tensor) -> Tensor:
            along = (
                direction[0] * torch.ones_like(state),
                direction[1 : 1 + num_gates, None] * torch.ones_like(gates),
                direction[1 + num_gates :, None] * torch.ones_like(arguments[2]),
            )
            return jvp(self.forward, arguments, along)[1]

        columns = vmap(tangent)(one_hot).unbind(0)
        return LocalDerivatives(columns[0], columns[1 : 1 + num_gates], columns[1 + num_gates :])
