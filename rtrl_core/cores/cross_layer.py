"""Two layers without truncation between them: the upper one's state is differentiated by the lower one's parameters, too.

A stack carries for each layer the sensitivity of its own parameters; what it leaves out is credit that reaches a lower layer's past
through the state of the upper layer. That is ``S21 = dc2 / dtheta1``, a full matrix::

    dL/dtheta1 += lam2_0 S21_0
    S21_T[i]    = (dc2_T,i / dc2_0) S21_0  +  (dc2_T,i / dc1_0) S1_0  +  dc2_T,i / dtheta1 inside the unroll

The three derivatives are those of one unroll, for every number of the upper state and every stream at once. With ``R`` numbers of upper
state, a parameter of the lower layer costs ``R`` numbers per stream, and an unroll about ``2 T R |theta1|`` operations.
"""

from typing import Any, NamedTuple

import torch

from rtrl_core import carried
from rtrl_core.cells import DiagonalCell
from rtrl_core.cores.base import Core, CoreState
from rtrl_core.cores.diagonal import DiagonalCore
from rtrl_core.cores.gated import GatedCore
from rtrl_core.cores.stacked import StackedCore
from rtrl_core.rules.blocks import turned_back
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import apply, derivatives_by_rows, in_own_precision, pieces

MAX_UNITS = 128
"""Of either layer: at 256 with as many inputs a stream would carry 136 MB."""


@carried.readable
class CrossSensitivity(NamedTuple):
    """What a stack of two carries."""

    layers: tuple[Any, Any]
    """Each layer's sensitivity of its own parameters."""
    across: Float[Tensor, "B R Q"]
    """``S21``: of the ``R`` numbers of the upper layer's state by the ``Q`` parameters of the lower one, in their order."""


class CrossLayerStack(StackedCore):
    """A ``StackedCore`` of two layers that is exact in both.

    Raises:
        ValueError: if one is no diagonal cell (with or without an output gate) under an exact rule, or is too large.
    """

    def __init__(self, lower: Core, upper: Core) -> None:
        super().__init__([lower, upper])
        self._below, self._above = _Layer.of(lower), _Layer.of(upper)
        for units in (self._below.core.num_units, self._above.core.num_units):
            if units > MAX_UNITS:
                raise ValueError(
                    f"exact credit across layers is for up to {MAX_UNITS} units per layer, got {units}: use fewer, or credit per layer"
                )

    def initial_state(self, batch_size: int) -> CoreState:
        state, above = super().initial_state(batch_size), self._above.core
        rows = above.cell.num_states * above.num_units
        size = sum(parameter.numel() for parameter in self.cores[0].parameters())
        return state._replace(
            sensitivity=CrossSensitivity(state.sensitivity, above.matrices.new_zeros(batch_size, rows, size))
        )

    @property
    def can_be_recorded(self) -> bool:
        return False

    def stream_norms(self, sensitivity: CrossSensitivity) -> Float[Tensor, " B"] | None:
        return carried.stream_norms(sensitivity)

    def refreshed(self, state: CoreState) -> CoreState:
        after = super().refreshed(_by_layer(state))
        return CoreState(after.cell, state.sensitivity._replace(layers=after.sensitivity))

    def settle(self, state: CoreState) -> None:
        super().settle(_by_layer(state))

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        return super().can_repeat(_by_layer(before), _by_layer(after))

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        lower = self.cores[0]
        below, above = (CoreState(*part) for part in zip(state.cell, state.sensitivity.layers, strict=True))
        self.settle(state)
        across = self._advanced(inputs, state, is_first)
        hidden, below = lower(inputs, below, is_first)
        old = state.sensitivity.across.masked_fill(is_first[0, :, None, None], 0)
        begun: Tensor = apply(_CrossCredit, self._above.core.cell, above.cell, old, *lower.parameters())
        outputs, above = self._above.unroll(hidden, CoreState(begun, above.sensitivity), is_first)
        sensitivity = CrossSensitivity((below.sensitivity, above.sensitivity), across)
        return torch.cat([hidden, outputs], dim=-1), CoreState((below.cell, above.cell), sensitivity)

    def _advanced(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> Float[Tensor, "B R Q"]:
        """``S21_T``."""
        below, above, batch_size = self._below, self._above, inputs.shape[1]
        leaves = [
            parameter.detach().expand(batch_size, *parameter.shape).clone().requires_grad_()
            for parameter in below.parameters()
        ]
        starts = [cell.detach().clone().requires_grad_() for cell in state.cell]
        with torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
            inputs = inputs.detach().to(leaves[0].dtype)
            hidden, _ = below.trace(leaves, inputs, starts[0], is_first)
            fixed = [parameter.detach().expand(batch_size, *parameter.shape) for parameter in above.parameters()]
            _, last = above.trace(fixed, hidden, starts[1], is_first)
            of_last = above.core.cell.differentiated(last).flatten(1)
            *direct, by_below, by_above = derivatives_by_rows(of_last, [*leaves, *starts])
        # Where an episode began, nothing older counts, whatever it holds: zero times that would not be zero.
        begun = is_first.any(0)
        past = below.contract_each(by_below, carried.cleared(state.sensitivity.layers[0], begun))
        for part, old in zip(direct, past, strict=False):
            part.add_(old)
        now = torch.cat([part.flatten(2) for part in direct], dim=-1)
        by_above = above.core.cell.differentiated(by_above).flatten(2)
        return now.baddbmm_(by_above, state.sensitivity.across.masked_fill(begun[:, None, None], 0))


class _Layer(NamedTuple):
    """A diagonal core with or without its output gate, as a plain differentiable function of parameters that each stream has its own of."""

    core: DiagonalCore
    gated: GatedCore | None

    @classmethod
    def of(cls, layer: Core) -> "_Layer":
        core, gated = (layer.core, layer) if isinstance(layer, GatedCore) else (layer, None)
        if not isinstance(core, DiagonalCore) or not core.rule.exact:
            name = f"rule {core.rule.name}" if isinstance(core, DiagonalCore) else type(core).__name__
            raise ValueError(
                f"exact credit across layers is for diagonal cells under rule segment or reference, not for {name}: use credit per layer"
            )
        return cls(core, gated)

    def parameters(self) -> list[Tensor]:
        """Matrices, vectors, and those of the gate: the order of ``Module.parameters``, for the tests hold it."""
        return [
            self.core.matrices,
            self.core.vectors,
            *(self.gated.gate.parameters() if self.gated is not None else ()),
        ]

    def unroll(self, inputs: Tensor, state: CoreState, is_first: Tensor) -> tuple[Float[Tensor, "T B H"], CoreState]:
        """``Core.forward`` with a gradient of ``state.cell``."""
        cells, after = self.core.from_state(inputs, state, is_first)
        return (cells if self.gated is None else self.gated.open(inputs, cells)), after

    def trace(
        self, parameters: list[Tensor], inputs: Float[Tensor, "T B D"], state: Tensor, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], Tensor]:
        """Outputs and last state; parameters are ``[B, ...]``."""
        matrices, vectors, *gate = parameters
        gates = torch.einsum("tbd,bknd->tbkn", inputs, matrices)
        outputs: list[Tensor] = []
        for u, first in zip(gates, is_first, strict=True):
            state = self.core.cell.forward(carried.cleared(state, first), u, vectors)
            outputs.append(self.core.cell.output(state))
        cells = torch.stack(outputs)
        if not gate:
            return cells, state
        weight, bias = gate
        opened = torch.einsum("tbe,bne->tbn", torch.cat([inputs, cells], dim=-1), weight) + bias
        return torch.sigmoid(opened) * cells, state

    def contract_each(
        self, adjoints: Float[Tensor, "B R ... N"], sensitivity: Sensitivity
    ) -> tuple[Float[Tensor, "B R K N D"], Float[Tensor, "B R P N"]]:
        """``sum_m lam_m S_m`` for each of R adjoints per stream, not summed over streams."""
        cell = self.core.cell
        adjoints = cell.differentiated(adjoints)
        if cell.num_states == 1:
            adjoints = adjoints.unsqueeze(2)
            sensitivity = Sensitivity(*(part.unsqueeze(2) for part in sensitivity))
        matrices = torch.einsum("brmn,bkmnd->brknd", adjoints, sensitivity.matrices)
        if cell.is_complex_linear:
            turned = torch.einsum("brmn,bkmnd->brknd", turned_back(adjoints), sensitivity.matrices)
            matrices = torch.cat([matrices, turned], dim=2)
        return matrices, torch.einsum("brmn,bpmn->brpn", adjoints, sensitivity.vectors)


class _CrossCredit(torch.autograd.Function):
    """Forward: the upper layer's state. Backward: ``lam2_0 S21_0`` into the lower layer's parameters."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, cell: DiagonalCell, state: Tensor, across: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.cell, ctx.shapes = cell, [parameter.shape for parameter in parameters]
        ctx.save_for_backward(across)
        return state.clone()

    @staticmethod
    @in_own_precision
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (across,) = ctx.saved_tensors
        flat = torch.einsum("br,brq->q", ctx.cell.differentiated(adjoint).flatten(1), across)
        parts = pieces(flat, [shape.numel() for shape in ctx.shapes])
        return None, None, None, *(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))


def _by_layer(state: CoreState) -> CoreState:
    return state._replace(sensitivity=state.sensitivity.layers)
