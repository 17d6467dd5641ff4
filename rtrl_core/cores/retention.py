"""Retention with fixed decays (RetNet, Sun et al. 2023): a matrix state per head whose credit is exact and never stale.

    C_t = gamma C_{t-1} + (W_k x_t) (W_v x_t)^T        o_t = C_t^T W_q x_t        per head, gamma fixed

No weight is inside the recurrence, so the state is a product of weights and a sum of inputs, and only that sum is carried::

    X_t = gamma X_{t-1} + x_t x_t^T        C_t = W_k X_t W_v^T

At the start of an unroll ``C_0`` is that product under the weights as they are then. Its gradient by ``W_k`` and ``W_v`` is that of the
whole episode, and neither it nor the state holds anything of older weights.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from rtrl_core import carried
from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cores.base import Core, CoreState, check_precision
from rtrl_core.cores.gated import GatedCore
from rtrl_core.names import look_up
from rtrl_core.rules import RULES, LearningRule
from rtrl_core.rules.starts import ListedStarts
from rtrl_core.shapes import Bool, Float, Tensor

SMALLEST = 1e-6
"""Mean square of a head's output below which it is not scaled up."""


def check_decays(decays: tuple[float, ...]) -> None:
    """Raises ``ValueError`` for one below 0, or one that never forgets."""
    for decay in decays:
        if not 0 <= decay < 1:
            raise ValueError(f"decays must be at least 0 and below 1, got {decay}")


@dataclass(frozen=True, slots=True)
class RetentionOptions:
    """Raises ``ValueError`` for what does not fit."""

    heads: int = 4
    decays: tuple[float, ...] = ()
    """One per head; none is the paper's ``1 - 2^(-5-h)``: memories of 32, 64, 128, 256 steps."""

    def __post_init__(self) -> None:
        check_decays(self.decays)
        if self.heads < 1 or (self.decays and len(self.decays) != self.heads):
            raise ValueError(
                f"heads must be at least 1, and one decay for each, got {self.heads} heads and {len(self.decays)} decays"
            )


class RetentionCore(Core):
    """Heads side by side, each output scaled to a mean square of one, ``num_units`` in all.

    Args:
        input_size: D.
        num_units: N, a multiple of the number of heads; keys and values of a head have ``N / heads`` numbers each.
        rule: an exact one carries ``X``, ``[B, heads, D, D]``; ``tbptt`` carries nothing.

    Raises:
        ValueError: for a size or a rule that does not fit.
    """

    def __init__(
        self,
        input_size: int,
        num_units: int,
        rule: str | LearningRule = "segment",
        options: RetentionOptions | None = None,
    ) -> None:
        super().__init__()
        options = RetentionOptions() if options is None else options
        if input_size < 1 or num_units < 1 or num_units % options.heads:
            raise ValueError(
                f"input_size must be at least 1 and num_units a multiple of {options.heads} heads, got {input_size} and {num_units}"
            )
        found = look_up(RULES, rule, "rule")() if isinstance(rule, str) else rule
        if not found.exact and found.name != "tbptt":
            raise ValueError(
                f"rule {found.name} is not for fixed decays, whose credit is exact as it is: use rule=segment or rule=tbptt"
            )
        self.input_size, self.output_size = input_size, num_units
        self._is_exact = found.exact
        size = num_units // options.heads
        self.queries, self.keys, self.values = (
            nn.Parameter(torch.empty(options.heads, size, input_size).normal_(std=1 / math.sqrt(input_size)))
            for _ in range(3)
        )
        decays = options.decays or tuple(1 - 2.0 ** (-5 - head) for head in range(options.heads))
        self.register_buffer("decays", torch.tensor(decays, dtype=torch.float64), persistent=False)
        self.decays: Tensor

    @property
    def carries_sensitivity(self) -> bool:
        return self._is_exact

    def initial_state(self, batch_size: int) -> CoreState:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        heads, size, inputs = self.keys.shape
        state = self.keys.new_zeros(batch_size, heads, size, size)
        return CoreState(state, self.keys.new_zeros(batch_size, heads, inputs, inputs) if self._is_exact else None)

    @torch.no_grad()
    def refreshed(self, state: CoreState) -> CoreState:
        return state._replace(cell=self._product(state.sensitivity)) if self._is_exact else state

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B N"], CoreState]:
        """A piece at a time, all of its steps at once; a piece ends where an episode begins in any stream."""
        inputs = self._checked("T B", inputs, is_first)
        self._check_state(state, inputs.shape[1])
        starts, num_steps = ListedStarts.listed(is_first), len(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            sums = carried.cleared(state.sensitivity, is_first[0]) if self._is_exact else None
            now = state.cell if sums is None else self._product(sums)
            outputs: list[Tensor] = []
            begins = sorted({0, *starts.at})
            for begin, end in pairwise([*begins, num_steps]):
                read, now = self._piece(inputs[begin:end], carried.cleared(now, is_first[begin]))
                outputs.append(self._scaled(read).permute(2, 0, 1, 3).flatten(2))
            after = None if sums is None else self._advanced(inputs.detach(), sums, starts)
        return torch.cat(outputs), CoreState(now.detach(), after)

    def _piece(
        self, inputs: Float[Tensor, "t B D"], before: Float[Tensor, "B heads n n"]
    ) -> tuple[Float[Tensor, "B heads t n"], Float[Tensor, "B heads n n"]]:
        """``o_t = gamma^t C_0^T q_t + sum_{s<=t} gamma^{t-s} (q_t k_s) v_s``, and ``C_t`` at the end."""
        queries, keys, values = (
            torch.einsum("tbd,hnd->bhtn", inputs, weights) for weights in (self.queries, self.keys, self.values)
        )
        steps = torch.arange(len(inputs), device=inputs.device)
        age = steps[:, None] - steps
        inside = (self.decays[:, None, None] ** age.clamp(min=0)).tril().to(inputs.dtype)
        since = (self.decays[:, None] ** (steps + 1)).to(inputs.dtype)
        read = (queries @ keys.transpose(2, 3) * inside) @ values + since[..., None] * (queries @ before)
        last = (keys * inside[:, -1, :, None]).transpose(2, 3) @ values
        return read, since[:, -1, None, None] * before + last

    @torch.no_grad()
    def _advanced(
        self, inputs: Float[Tensor, "T B D"], sums: Float[Tensor, "B heads D D"], starts: ListedStarts
    ) -> Float[Tensor, "B heads D D"]:
        """``X_T``."""
        if starts.forgets:
            inputs = inputs.clone(memory_format=torch.contiguous_format)
            starts.forget_older_(inputs)
        steps = torch.arange(len(inputs) - 1, -1, -1, device=inputs.device)
        weights = (self.decays[:, None] ** steps).to(inputs.dtype)
        by_stream = inputs.transpose(0, 1).unsqueeze(1)
        added = (by_stream * weights[..., None]).transpose(2, 3) @ by_stream
        kept = (self.decays ** len(inputs)).to(inputs.dtype)[:, None, None] * sums
        return added.add_(starts.clear_begun_(kept))

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Float[Tensor, "B heads n n"], is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B heads n n"]]:
        inputs = self._checked("B", inputs, is_first)
        self._check_cell("cell_state", cell_state, inputs.shape[0])
        with torch.autocast(inputs.device.type, enabled=False):
            queries, keys, values = (
                torch.einsum("bd,hnd->bhn", inputs, weights) for weights in (self.queries, self.keys, self.values)
            )
            decays = self.decays.to(inputs.dtype)[:, None, None]
            cell_state = decays * carried.cleared(cell_state, is_first) + keys[..., None] * values[..., None, :]
            read = torch.einsum("bhn,bhnm->bhm", queries, cell_state)
        return self._scaled(read).flatten(1), cell_state

    def _product(self, sums: Float[Tensor, "B heads D D"]) -> Float[Tensor, "B heads n n"]:
        """``C = W_k X W_v^T``."""
        return torch.einsum("hnd,bhde,hme->bhnm", self.keys, sums, self.values)

    def _scaled(self, read: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """A head with a long memory would be louder than one with a short one."""
        return read * (read.square().mean(-1, keepdim=True) + SMALLEST).rsqrt()

    def _checked(self, axes: str, inputs: Tensor, is_first: Tensor) -> Tensor:
        check_precision(self.parameters())
        sizes = (None,) * len(axes.split())
        expect("inputs", inputs, f"{axes} D", (*sizes, self.input_size), FLOATING, self.keys.device)
        expect("is_first", is_first, axes, tuple(inputs.shape[:-1]), torch.bool, self.keys.device)
        return inputs.to(self.keys.dtype)

    def _check_state(self, state: object, batch_size: int) -> None:
        if not isinstance(state, CoreState):
            raise TypeError(
                f"state must be a CoreState, as initial_state(batch_size) gives it, got {type(state).__name__}"
            )
        self._check_cell("state.cell", state.cell, batch_size)
        if self._is_exact:
            shape = (batch_size, len(self.keys), self.input_size, self.input_size)
            expect("state.sensitivity", state.sensitivity, "B heads D D", shape, self.keys.dtype, self.keys.device)

    def _check_cell(self, name: str, cell: Any, batch_size: int) -> None:
        heads, size, _ = self.keys.shape
        expect(name, cell, "B heads n n", (batch_size, heads, size, size), self.keys.dtype, self.keys.device)


class RetNet(GatedCore):
    """Retention and the output gate of the eLSTM. Arguments and errors are those of ``RetentionCore``."""

    Options: ClassVar[type] = RetentionOptions

    def __init__(
        self,
        input_size: int,
        num_units: int,
        rule: str | LearningRule = "segment",
        options: RetentionOptions | None = None,
    ) -> None:
        super().__init__(RetentionCore(input_size, num_units, rule, options))
