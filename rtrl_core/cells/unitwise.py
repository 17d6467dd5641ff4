"""Cells whose units see each other, but whose parameters each feed one unit only: LSTM, GRU, vanilla RNN.

Unit ``n`` computes from its own numbers of state and its own gate inputs, and a row of a matrix belongs to one gate of one unit::

    u_{k,t}[n] = W_k[n] . source_t        source_t = [x_t, h_{t-1}, 1], or without x or without h
    c_t[n]     = phi(c_{t-1}[n], u_t[n])  M numbers; the last of them is h, which the heads and the other units read

So a parameter reaches the other units a step later, through ``h``. What an approximation keeps of that is its business
(``rules/snap1.py``); what it takes for any of them is local to a unit and stated here.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from torch.func import jvp

from rtrl_core import carried
from rtrl_core.cells.base import LocalDerivatives
from rtrl_core.cells.recurrent import RecurrentCell
from rtrl_core.shapes import Float, Tensor
from rtrl_core.untyped import pieces

Rows = tuple[Tensor, ...]
"""The numbers of state of every unit: M tensors ``[.., N]``."""


class GateGroup(NamedTuple):
    """Gates that read the same source, whose matrices are one parameter ``[K, N, E]``."""

    names: tuple[str, ...]
    sees_inputs: bool = True
    sees_hidden: bool = True


class UnitwiseCell(RecurrentCell):
    """Subclasses state ``num_states``, ``groups``, ``zeros`` and ``update``; ``derivatives`` if there is a closed form.

    Matrices begin as torch.nn's: every weight and both biases, which are one here, from U(-1/sqrt N, 1/sqrt N).
    """

    num_states: ClassVar[int]
    """M: the tensors that a state consists of, each ``[B, N]``; the last is ``h``."""
    groups: ClassVar[tuple[GateGroup, ...]]

    def __init__(self, input_size: int, num_units: int, options: Any = None) -> None:
        super().__init__(input_size, num_units, options)
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.empty(len(group.names), num_units, self._source_size(group))) for group in self.groups
        )
        bound = 1 / math.sqrt(num_units)
        with torch.no_grad():
            for group, matrix in zip(self.groups, self.matrices, strict=True):
                matrix.uniform_(-bound, bound)
                if group.sees_inputs and group.sees_hidden:
                    matrix[..., -1] += torch.empty_like(matrix[..., -1]).uniform_(-bound, bound)

    @abstractmethod
    def update(self, rows: Rows, gates: Rows) -> Rows:
        """``phi``: element-wise, out of place. ``gates`` are those of all groups, in order."""

    def forward(self, inputs: Float[Tensor, "B D"], state: Any) -> Any:
        rows = tuple(carried.leaves(state))
        return carried.rebuild(state, self.update(rows, self.gates(self.sources(inputs, rows[-1]))))

    def output(self, state: Any) -> Float[Tensor, "B N"]:
        return tuple(carried.leaves(state))[-1]

    def sources(self, inputs: Float[Tensor, "*batch D"], hidden: Float[Tensor, "*batch N"]) -> Rows:
        """What each group reads, ``[.., E]``."""
        one = hidden.new_ones(*hidden.shape[:-1], 1)
        return tuple(
            torch.cat([*[inputs] * group.sees_inputs, *[hidden] * group.sees_hidden, one], dim=-1)
            for group in self.groups
        )

    def gates(self, sources: Sequence[Tensor]) -> Rows:
        """The gate inputs ``u_k`` of all groups."""
        found: list[Tensor] = []
        for source, matrix in zip(sources, self.matrices, strict=True):
            together = nn.functional.linear(source, matrix.flatten(0, 1))
            found += pieces(together, [self.num_units] * len(matrix), -1)
        return tuple(found)

    def derivatives(self, rows: Rows, gates: Rows) -> LocalDerivatives:
        """Of ``update`` alone: by the unit's own numbers with its gate inputs held fixed ``[.., M, M, N]``, and by its gate inputs
        ``[.., M, N]`` each. The default is a forward-mode pass for each of them; the tests hold closed forms to it."""
        arguments = (*rows, *gates)

        def following(*arguments: Tensor) -> Tensor:
            return torch.stack(self.update(arguments[: self.num_states], arguments[self.num_states :]), dim=-2)

        def by(number: int) -> Tensor:
            along = tuple(
                torch.ones_like(each) if place == number else torch.zeros_like(each)
                for place, each in enumerate(arguments)
            )
            return jvp(following, arguments, along)[1]

        columns = [by(number) for number in range(len(arguments))]
        by_rows = torch.stack(columns[: self.num_states], dim=-2)
        return LocalDerivatives(by_rows, tuple(columns[self.num_states :]), ())

    def own_weights(self) -> list[Tensor | None]:
        """How each gate input depends on its unit's own ``h``: the diagonal ``[N]`` of its recurrent matrix; ``None`` if it has none."""
        found: list[Tensor | None] = []
        for group, matrix in zip(self.groups, self.matrices, strict=True):
            first = self.input_size * group.sees_inputs
            own = matrix[..., first : first + self.num_units].diagonal(dim1=-2, dim2=-1)
            found += own.unbind(0) if group.sees_hidden else [None] * len(group.names)
        return found

    def diagonal_blocks(self, local: LocalDerivatives) -> Float[Tensor, "*batch M M N"]:
        """``A[m,j] = dc_{t,m}[n] / dc_{t-1,j}[n]`` of each unit, its gates' view of its own ``h`` included: the diagonal blocks of the
        Jacobian of a step."""
        blocks = local.state.clone()
        for gate, own in zip(local.gates, self.own_weights(), strict=True):
            if own is not None:
                blocks[..., -1, :] += gate * own
        return blocks

    def _source_size(self, group: GateGroup) -> int:
        return self.input_size * group.sees_inputs + self.num_units * group.sees_hidden + 1
