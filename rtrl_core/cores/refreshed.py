"""Anchored refresh: a core whose state and sensitivity are computed anew, now and then, from where they were W steps ago.

A sensitivity adds up over an episode in which the weights change: what is in it of long ago was added under older weights. Beside the
present ``(c, S)`` this core keeps those of at least ``window`` steps ago, the anchor, and its inputs since. When new weights have come
and ``every`` unrolls are over, it runs again from the anchor under the present weights::

    anchor (c, S)    x_1 ........ x_kT ............. x_W
                             new anchor           present (c, S)

so that after ``k = every`` further unrolls of ``T`` steps the anchor is of ``W`` steps ago again.

What is left of older weights is what the anchor held, decayed over at least W steps; an episode that began after the anchor has none.
The anchor is the only other sensitivity, and it moves in the same pass.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch

from rtrl_core import carried
from rtrl_core.cores.base import Core, CoreState
from rtrl_core.shapes import Bool, Float, Int, Tensor

BLOCK_BYTES = 16 << 20
"""Sensitivity of the streams that are run again together: more only take more memory."""
CHUNK = 64
"""Steps that are run again together, for the same reason."""


@carried.readable
class Anchored(NamedTuple):
    """What is carried in the place of a sensitivity. A stream that is reset, all of it zero, has no past."""

    sensitivity: Any
    """Of the core inside."""
    anchor: CoreState
    """Where the rows below begin; memory of its own."""
    inputs: Float[Tensor, "B L D"]
    is_first: Bool[Tensor, "B L"]
    has_past: Bool[Tensor, " B"]
    """Not at the start, and not in a stream that was reset and has made no step since."""
    steps: Int[Tensor, " B"]
    """Rows that are filled: the same in all streams that have a past."""
    unrolls: Int[Tensor, " B"]
    """Unrolls since the present sensitivity was computed anew: the same in all streams that have a past."""


class RefreshedCore(Core):
    """Any core that carries a sensitivity. Its parameters are those of the core inside, under the same names.

    Args:
        core: which keeps what forward was given: ``advance_in_backward`` has not been called.
        window: W, steps that a refresh goes back, once there are so many; ``every * unroll`` if that is more.
        every: unrolls between two refreshes.
        unroll: T, steps of an unroll; none may have more.

    Memory, beside the core's own: one sensitivity, and ``max(W, every T)`` inputs per stream. Time: ``every`` unrolls cost a forward pass
    over that many steps more, without outputs.

    Raises:
        ValueError: for a core that carries nothing, a window shorter than an unroll, or a number below 1.
    """

    def __init__(self, core: Core, *, window: int, every: int, unroll: int) -> None:
        super().__init__()
        if not core.carries_sensitivity:
            raise ValueError("a core that carries no sensitivity has nothing to refresh")
        if min(every, unroll) < 1 or window < unroll:
            raise ValueError(
                f"a refresh needs 1 <= unroll <= window and 1 <= every, got unroll={unroll}, window={window}, every={every}"
            )
        # The same dictionaries, not a module inside: whatever knows parameters by name knows them with and without a refresh.
        for part in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            object.__setattr__(self, part, getattr(core, part))
        object.__setattr__(self, "core", core)
        object.__setattr__(self, "_again", core)
        self.core: Core
        self._again: Core
        """Runs again from the anchor; it advances nothing in place."""
        self.every, self.longest = every, unroll
        self._rows = max(window, every * unroll)
        self._rows_after = self._rows - every * unroll
        self.input_size, self.output_size = core.input_size, core.output_size
        self._in_place = False

    @property
    def carries_sensitivity(self) -> bool:
        return True

    def initial_state(self, batch_size: int) -> CoreState:
        cell, sensitivity = self.core.initial_state(batch_size)
        anchor = self.core.initial_state(batch_size)
        example = next(leaf for leaf in carried.leaves(sensitivity) if leaf.is_floating_point())
        rows = (batch_size, self._rows)
        counts = torch.zeros(batch_size, dtype=torch.int64, device=example.device)
        kept = Anchored(
            sensitivity,
            CoreState(*anchor),
            example.new_zeros(*rows, self.input_size),
            example.new_zeros(rows, dtype=torch.bool),
            counts.bool(),
            counts,
            counts.clone(),
        )
        return CoreState(cell, kept)

    def inner(self, state: CoreState) -> CoreState:
        """What the core inside carries."""
        return CoreState(state.cell, state.sensitivity.sensitivity)

    def stream_norms(self, sensitivity: Any) -> Float[Tensor, " B"] | None:
        """Of the present sensitivity; infinite where anchor or inputs are not finite."""
        norms = self.core.stream_norms(sensitivity.sensitivity)
        rest = carried.finite_streams((sensitivity.anchor, sensitivity.inputs))
        return norms if norms is None or rest is None else norms.masked_fill(~rest, torch.inf)

    def advance_in_backward(self) -> None:
        tensors = (*self.core.parameters(), *self.core.buffers())
        object.__setattr__(self, "_again", deepcopy(self.core, {id(tensor): tensor for tensor in tensors}))
        self._in_place = True
        self.core.advance_in_backward()

    def advance_in_forward(self) -> None:
        self._in_place = False
        self.core.advance_in_forward()

    def settle(self, state: CoreState) -> None:
        self.core.settle(self.inner(state))

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        return self.core.can_repeat(self.inner(before), self.inner(after))

    def forward(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], CoreState]:
        """Raises what the core inside raises, and ``ValueError`` for a longer unroll than was said."""
        if not isinstance(state, CoreState) or not isinstance(state.sensitivity, Anchored):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError("state must be a CoreState of this core, as initial_state(batch_size) gives it")
        if len(inputs) > self.longest:
            raise ValueError(f"an unroll may have at most {self.longest} steps, got {len(inputs)}")
        outputs, after = self.core(inputs, self.inner(state), is_first)
        return outputs, CoreState(after.cell, self._remembered(state.sensitivity, after.sensitivity, inputs, is_first))

    def step(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H"], Any]:
        return self.core.step(inputs, cell_state, is_first)

    def refreshed(self, state: CoreState) -> CoreState:
        """Until ``every`` unrolls are over what the core inside says; then computed anew from the anchor, which moves on."""
        kept: Anchored = state.sensitivity
        if int(kept.unrolls.max()) < self.every:
            inside = self.core.refreshed(self.inner(state))
            return CoreState(inside.cell, kept._replace(sensitivity=inside.sensitivity))
        if not self._in_place:
            kept = carried.map_leaves(torch.clone, kept)
        cells = self._run_again(kept)
        kept.unrolls.zero_()
        return CoreState(cells, kept).reset(~kept.has_past)

    def _remembered(self, kept: Anchored, sensitivity: Any, inputs: Tensor, is_first: Tensor) -> Anchored:
        """With an unroll behind the others."""
        in_place = self._in_place and sensitivity is kept.sensitivity
        if not self._in_place:
            kept = carried.map_leaves(torch.clone, kept._replace(sensitivity=None))
        if (excess := int(kept.steps.max()) + len(inputs) - self._rows) > 0:  # for long no new weights have come
            self._move_anchor(kept, excess)
        filled, unrolls = int(kept.steps.max()), int(kept.unrolls.max()) + 1
        rows = slice(filled, filled + len(inputs))
        kept.inputs[:, rows] = inputs.detach().transpose(0, 1)
        kept.is_first[:, rows] = is_first.t()
        kept.is_first[:, filled] |= ~kept.has_past
        if in_place:  # whoever compares the states before and after the unroll is to see that they are one
            kept.has_past.fill_(True)
            kept.steps.fill_(rows.stop)
            kept.unrolls.fill_(unrolls)
            return kept
        return kept._replace(
            sensitivity=sensitivity,
            has_past=torch.ones_like(kept.has_past),
            steps=torch.full_like(kept.steps, rows.stop),
            unrolls=torch.full_like(kept.unrolls, unrolls),
        )

    @torch.no_grad()
    def _run_again(self, kept: Anchored) -> Any:
        """Overwrites sensitivity and anchor; returns the cells' states at the end of the rows."""
        filled = int(kept.steps.max())
        folded = max(0, filled - self._rows_after)
        parts: list[Any] = []
        for block in _blocks(kept):
            after = self._advance(kept, block, self._fold(kept, block, folded), slice(folded, filled))
            _write(kept.sensitivity, block, after.sensitivity)
            parts.append(after.cell)
        _forget_rows(kept, folded)
        leaves = zip(*(carried.leaves(part) for part in parts), strict=True)
        return carried.rebuild(parts[0], [torch.cat(pieces) for pieces in leaves])

    @torch.no_grad()
    def _move_anchor(self, kept: Anchored, steps: int) -> None:
        for block in _blocks(kept):
            self._fold(kept, block, steps)
        _forget_rows(kept, steps)

    def _fold(self, kept: Anchored, block: slice, steps: int) -> CoreState:
        """Moves the anchor of these streams on by that many steps."""
        anchor = self._again.refreshed(carried.map_leaves(lambda tensor: tensor[block], kept.anchor))
        if steps:
            anchor = self._advance(kept, block, anchor, slice(0, steps))
            _write(kept.anchor, block, anchor)
        return anchor

    def _advance(self, kept: Anchored, block: slice, state: CoreState, rows: slice) -> CoreState:
        for start in range(rows.start, rows.stop, CHUNK):
            chunk = slice(start, min(rows.stop, start + CHUNK))
            inputs, is_first = kept.inputs[block, chunk].transpose(0, 1), kept.is_first[block, chunk].t()
            state = self._again.advance(inputs.contiguous(), state, is_first.contiguous())
        return state


def _blocks(kept: Anchored) -> Iterator[slice]:
    streams = len(kept.steps)
    at_once = max(1, BLOCK_BYTES * streams // max(1, carried.size_bytes(kept.anchor)))
    return (slice(start, min(streams, start + at_once)) for start in range(0, streams, at_once))


def _write(whole: Any, block: slice, part: Any) -> None:
    for into, source in zip(carried.leaves(whole), carried.leaves(part), strict=True):
        into[block] = source


def _forget_rows(kept: Anchored, folded: int) -> None:
    """The first ones, which the anchor has gone over."""
    filled = int(kept.steps.max())
    for rows in (kept.inputs, kept.is_first):
        rows[:, : filled - folded] = rows[:, folded:filled].clone()
    kept.steps.fill_(filled - folded)
