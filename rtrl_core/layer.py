"""The recurrent layer for code that was written for ``nn.LSTM``: the same call, with credit that does not end at the unroll.

    layer = RTRL(input_size=8, hidden_size=64)
    state = None
    for inputs, is_first, targets in unrolls:                    # [T, B, D], [T, B]
        outputs, state = layer(inputs, state, is_first)          # [T, B, H]
        loss_of(outputs, targets).backward()

docs/from-nn-lstm.md says what differs, and what is exact.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from rtrl_core import carried
from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cells import DiagonalCell, RecurrentCell
from rtrl_core.cores.base import Core, CoreState, check_precision
from rtrl_core.cores.build import build_core
from rtrl_core.cores.stacked import StackedCore
from rtrl_core.ragged import by_lengths, checked_lengths, pack_like, unpack
from rtrl_core.rules import LearningRule
from rtrl_core.shapes import Bool, Float, Int, Tensor
from rtrl_core.untyped import outside_graphs

Outputs: TypeAlias = Literal["top", "all"]
Leaf: TypeAlias = tuple[tuple[int, ...], torch.dtype]
"""Shape of one stream, and type, of a tensor of a state."""


class RTRL(nn.Module):
    """
    Args:
        input_size: D.
        hidden_size: units of each layer.
        num_layers: layers on top of each other. Of several the top one is exact; the credit of those below ends at the start of the
            unroll where it goes through the state of a layer above, unless ``across_layers`` says otherwise.
        cell: a name of ``core_names()``, or a cell or core of your own; as ``build_core`` takes it.
        rule: a name in ``RULES``, or a rule of your own. It changes gradients, never outputs.
        batch_first: whether inputs, outputs and ``is_first`` are ``[B, T, ...]``. A state has the stream first in any case.
        outputs: ``"top"`` gives those of the top layer, as ``nn.LSTM`` does, ``"all"`` those of all layers side by side: a layer that
            is read directly keeps more of its credit than one that is read through others.
        across_layers: ``"exact"`` makes two layers of up to 128 units exact in both, for a sensitivity of units times parameters.

    Raises:
        ValueError: for a size below 1, an unknown name, or a rule that does not fit the cell.
        TypeError: for a ``dtype`` other than float32 and float64.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: str | DiagonalCell | type[RecurrentCell] | type[Core] = "elstm",
        rule: str | LearningRule = "segment",
        batch_first: bool = False,
        outputs: Outputs = "top",
        across_layers: str = "local",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(input_size, hidden_size, num_layers) < 1:
            sizes = f"{input_size}, {hidden_size} and {num_layers}"
            raise ValueError(f"input_size, hidden_size and num_layers must be at least 1, got {sizes}")
        if outputs not in ("top", "all"):
            raise ValueError(f"unknown outputs {outputs!r}: expected one of top, all")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.outputs = batch_first, outputs
        self._cell, self._rule = _name(cell), _name(rule)
        self.core = build_core(cell, input_size, hidden_size, rule, layers=num_layers, across_layers=across_layers)
        top = self.core.layers[-1] if isinstance(self.core, StackedCore) and outputs == "top" else self.core
        assert isinstance(top, Core)
        self.output_size = top.output_size
        """H, the width of the outputs."""
        self.to(device=device, dtype=dtype)
        check_precision(self.parameters())
        self._leaves: tuple[torch.dtype, list[Leaf]] | None = None

    def initial_state(self, batch_size: int) -> CoreState:
        """The state at the start of an episode in every stream, where the parameters are: what ``state=None`` stands for."""
        return self.core.initial_state(batch_size)

    def refreshed(self, state: CoreState) -> CoreState:
        """``state`` as the present weights would have left it, as far as it holds what that takes: see ``Core.refreshed``."""
        return self.core.refreshed(state)

    def load_state(self, saved: dict[str, Any]) -> CoreState:
        """A state from its ``state_dict()``, where the parameters are.

        Raises:
            ValueError: if it is that of another layer.
        """
        batch_size = _batch_size_of(saved)
        if batch_size is None:
            raise ValueError("expected the state_dict() of a state, got one without a tensor")
        return carried.load(self.initial_state(batch_size), saved)

    @property
    def state_bytes_per_stream(self) -> int:
        """Of what is carried from unroll to unroll, most of it the sensitivity: one number per parameter of a diagonal cell."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._expected_leaves())

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, cell={self._cell}, rule={self._rule}, "
            f"batch_first={self.batch_first}, outputs={self.outputs}, state_bytes_per_stream={self.state_bytes_per_stream}"
        )

    def forward(
        self,
        inputs: Float[Tensor, "*axes D"] | PackedSequence,
        state: CoreState | None = None,
        is_first: Bool[Tensor, "*axes"] | None = None,
        lengths: Int[Tensor, " B"] | Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "*axes H"] | PackedSequence, CoreState]:
        """Runs an unroll. Returns the outputs (under autograd) and the state to carry on with (detached).

        Args:
            inputs: ``[T, B, D]``; ``[B, T, D]`` with ``batch_first``; ``[T, D]`` is one stream; packed ones come back packed.
            state: what the last unroll of the same streams returned; ``None`` where episodes begin in all of them.
            is_first: where an episode begins; ``None`` is nowhere inside.
            lengths: steps of each stream, at least one. What comes after is not read: it changes neither state nor gradient, and the
                outputs there are zero.

        Raises:
            TypeError, ValueError: for an argument of another dtype, shape, device or layer, or a layer in half precision.
        """
        # A rule's node is for autograd and waits for flags: no tracer sees it, compiled code calls the layer between two graphs.
        if torch.compiler.is_compiling():
            return outside_graphs(self._forward)(inputs, state, is_first, lengths)
        return self._forward(inputs, state, is_first, lengths)

    def _forward(self, inputs: Any, state: Any, is_first: Any, lengths: Any) -> tuple[Any, CoreState]:
        check_precision(self.parameters())
        if isinstance(inputs, PackedSequence):
            if is_first is not None or lengths is not None:
                raise ValueError("a PackedSequence comes without is_first and lengths: pad it, and pass all three")
            padded, steps = unpack(inputs)
            outputs, state = self._time_major(padded, state, None, steps)
            return pack_like(inputs, outputs, steps), state
        is_batch = not isinstance(inputs, Tensor) or inputs.dim() != 2
        axes = ("B T" if self.batch_first else "T B") if is_batch else "T"
        any_size = (None,) * len(axes.split())
        expect("inputs", inputs, f"{axes} D", (*any_size, self.input_size), FLOATING, self._device)
        if is_first is not None:
            expect("is_first", is_first, axes, tuple(inputs.shape[:-1]), torch.bool, self._device)
        if is_batch and not self.batch_first:
            return self._time_major(inputs, state, is_first, lengths)
        # One more axis, or two in turns: both are undone by the same call.
        to, back = (_swapped, _swapped) if is_batch else (_with_stream, _without_stream)
        outputs, state = self._time_major(to(inputs), state, None if is_first is None else to(is_first), lengths)
        return back(outputs), state

    def _time_major(self, inputs: Tensor, state: Any, is_first: Any, lengths: Any) -> tuple[Tensor, CoreState]:
        num_steps, batch_size, _ = inputs.shape
        if is_first is None:
            is_first = torch.zeros(num_steps, batch_size, dtype=torch.bool, device=inputs.device)
        state = self.initial_state(batch_size) if state is None else self._checked(state, batch_size)
        steps = [num_steps] * batch_size if lengths is None else checked_lengths(lengths, num_steps, batch_size)
        # The output gate too: under autocast all of the layer computes as it does without.
        with torch.autocast(inputs.device.type, enabled=False):
            return by_lengths(self._run, self._in_own_type(inputs), state, is_first, steps)

    def _run(self, inputs: Tensor, state: CoreState, is_first: Tensor) -> tuple[Tensor, CoreState]:
        outputs, after = self.core(inputs, state, is_first)
        return outputs[..., -self.output_size :], after._replace(cell=carried.map_leaves(_own_memory, after.cell))

    @property
    def _device(self) -> torch.device:
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    def _in_own_type(self, inputs: Tensor) -> Tensor:
        own = next((parameter.dtype for parameter in self.parameters()), inputs.dtype)
        return inputs.to(own)

    def _checked(self, state: Any, batch_size: int) -> CoreState:
        """A state of a layer of other sizes, or of another batch, might be broadcast to this one's."""
        if not isinstance(state, CoreState):
            raise TypeError(
                "state must be None, initial_state(batch_size) or what an earlier call returned, not the pair of nn.LSTM, got "
                f"{type(state).__name__}"
            )
        expected, given = self._expected_leaves(), list(carried.leaves(state))
        if [shape for shape, _ in expected] != [tuple(tensor.shape[1:]) for tensor in given]:
            shapes = [[list(shape) for shape, _ in expected], [list(tensor.shape[1:]) for tensor in given]]
            raise ValueError(
                f"state must be one of this layer, {shapes[0]} per stream, got {shapes[1]}: take it from this layer's "
                "initial_state, or None"
            )
        for (_, dtype), tensor in zip(expected, given, strict=True):
            if tensor.shape[0] != batch_size:
                raise ValueError(
                    f"state is of {tensor.shape[0]} streams, but inputs are of {batch_size}, with batch_first={self.batch_first}"
                )
            if tensor.dtype != dtype:
                raise TypeError(
                    f"state must be {dtype} as the layer is, got {tensor.dtype}: move it by state.to({dtype})"
                )
            if tensor.device != self._device:
                raise ValueError(f"state must be on {self._device}, got {tensor.device}: move it by state.to(device)")
        return state

    def _expected_leaves(self) -> list[Leaf]:
        """Found once, and again after the layer's type was changed."""
        own = self._in_own_type(torch.empty(0)).dtype
        if self._leaves is None or self._leaves[0] != own:
            leaves = carried.leaves(self.initial_state(1))
            self._leaves = own, [(tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        return self._leaves[1]


def _name(part: Any) -> str:
    if isinstance(part, str):
        return part
    return part.__name__ if isinstance(part, type) else str(getattr(part, "name", type(part).__name__))


def _swapped(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous()


def _with_stream(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(1)


def _without_stream(tensor: Tensor) -> Tensor:
    return tensor.squeeze(1)


def _own_memory(tensor: Tensor) -> Tensor:
    """The last row of an unroll's outputs would keep all of them, and be saved with all of them."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _batch_size_of(saved: Any) -> int | None:
    if isinstance(saved, Tensor):
        return len(saved) if saved.dim() else None
    parts = list(cast(dict[str, Any], saved).values()) if isinstance(saved, dict) else []
    return next((size for size in map(_batch_size_of, parts) if size is not None), None)
