"""What a diagonal recurrent cell has to state: its forward function; its local derivatives if it has them in closed form.

A cell is element-wise, ``c_t = phi(c_{t-1}, u_{1,t} .. u_{K,t}; p_1 .. p_P)`` with ``u_{k,t} = W_k x_t``: unit ``n`` sees only
its own state, its own gate inputs and its own parameters. That is what makes exact RTRL cost no more than the parameters
themselves. Learning rules, sensitivities and scans are written once, for every cell.

A unit may have several numbers of state that see each other (a rotation, a normaliser beside what it normalises): then ``dphi/dc`` is
a small matrix per unit, and a sensitivity is carried for each number.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch.func import jvp, vmap

from rtrl_core.shapes import Float, Tensor
from rtrl_core.untyped import pieces


class LocalDerivatives(NamedTuple):
    """Derivatives of ``phi`` at one or many steps.

    Of a cell with one number per unit each tensor has the shape of the state; with ``M`` of them see below.
    """

    state: Tensor
    """``a = dphi/dc_{t-1}``; with ``M`` numbers ``[.., M, M, N]``, first the number that depends, then the one it depends on."""
    gates: tuple[Tensor, ...]
    """``g_k = dphi/du_k``, one per gate; with ``M`` numbers ``[.., M, N]``."""
    vectors: tuple[Tensor, ...]
    """``q_p = dphi/dp``, one per parameter vector, as ``gates``."""

    def at(self, t: int) -> "LocalDerivatives":
        """The derivatives of step ``t`` alone."""
        return LocalDerivatives(self.state[t], tuple(g[t] for g in self.gates), tuple(q[t] for q in self.vectors))


class DiagonalCell(ABC):
    """An element-wise recurrence. Subclasses hold constants only; parameters are passed in.

    The state of a batch is ``[.., N]``, or ``[.., M + R, N]`` where a unit has ``num_states`` numbers ``M > 1`` or scales.
    """

    gate_names: ClassVar[tuple[str, ...]]
    vector_names: ClassVar[tuple[str, ...]]
    num_states: ClassVar[int] = 1
    """M, numbers of state per unit that are differentiated."""
    num_scales: ClassVar[int] = 0
    """R, further rows of the state, below those, which only scale the others: constants to every derivative."""
    is_complex_linear: ClassVar[bool] = False
    """Whether the two gates are real and imaginary part of one input into ``c_t = z c_{t-1} + b u_t`` of complex numbers ``(c_1, c_2)``
    with real ``b``. Then the derivative by the second matrix is that by the first times i, and is not carried."""

    def state_shape(self, num_units: int) -> tuple[int, ...]:
        """Of one stream."""
        rows = self.num_states + self.num_scales
        return (num_units,) if rows == 1 else (rows, num_units)

    @property
    def outputs_per_unit(self) -> int:
        """Of ``output``."""
        return self.num_states

    @property
    def carried_gates(self) -> int:
        """Gates whose matrices have a sensitivity of their own."""
        return 1 if self.is_complex_linear else len(self.gate_names)

    def output(self, state: Float[Tensor, "*state"]) -> Float[Tensor, "*output"]:
        """What is read of a state, ``[.., outputs_per_unit * N]``: all of it, but the scales."""
        if self.num_states + self.num_scales == 1:
            return state
        return self.differentiated(state).flatten(-2)

    def differentiated(self, state: Float[Tensor, "*state"]) -> Float[Tensor, "*rows"]:
        """A state, or something of its shape, without the scales."""
        return state[..., : self.num_states, :] if self.num_scales else state

    @abstractmethod
    def forward(
        self,
        state: Float[Tensor, "*state"],
        gates: Float[Tensor, "*batch K N"],
        vectors: Float[Tensor, "*#batch P N"],
    ) -> Float[Tensor, "*state"]:
        """``phi``: next state from the previous one. Must be element-wise in the last axis, and out of place."""

    @abstractmethod
    def initialise(self, matrices: Float[Tensor, "K N D"], vectors: Float[Tensor, "P N"]) -> None:
        """Fills the parameters in place from torch's global generator."""

    def derivatives(
        self, state: Float[Tensor, "*state"], gates: Float[Tensor, "*batch K N"], vectors: Float[Tensor, "P N"]
    ) -> LocalDerivatives:
        """Local derivatives at ``state`` (the previous state, after any reset).

        The default is one vectorised forward-mode pass of ``forward``, ``M + K + P`` tangents wide. A cell on the fast path
        overrides it with its closed form; the tests hold the two equal.
        """
        num_states, num_gates, num_vectors = self.num_states, gates.shape[-2], vectors.shape[-2]
        one_each = num_states + self.num_scales == 1
        rows = state.unsqueeze(-2) if one_each else state
        arguments = (rows, gates, vectors.expand(*gates.shape[:-2], *vectors.shape[-2:]).clone())
        one_hot = torch.eye(num_states + num_gates + num_vectors, dtype=state.dtype, device=state.device)

        def following(rows: Tensor, gates: Tensor, vectors: Tensor) -> Tensor:
            after = self.forward(rows.squeeze(-2) if one_each else rows, gates, vectors)
            return self.differentiated(after)

        def tangent(direction: Tensor) -> Tensor:
            by_state, by_gate, by_vector = pieces(direction, (num_states, num_gates, num_vectors))
            by_state = torch.cat([by_state, direction.new_zeros(self.num_scales)])
            directions = zip((by_state, by_gate, by_vector), arguments, strict=True)
            return jvp(following, arguments, tuple(along[:, None] * torch.ones_like(of) for along, of in directions))[1]

        columns = vmap(tangent)(one_hot).unbind(0)
        by_state = columns[0] if one_each else torch.stack(columns[:num_states], dim=-2)
        return LocalDerivatives(
            by_state, columns[num_states : num_states + num_gates], columns[num_states + num_gates :]
        )
