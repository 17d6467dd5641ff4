"""What an actor computes, as CUDA graphs: recorded once, and done again without Python and without a call for each kernel.

    acting      step, cell -> stem, core, heads -> core inputs, policy, value, cell      one graph for each number of rows
    learning    the unroll's rows, cell, sensitivity -> gradient of core and heads, and of the core's inputs
                the sensitivity, advanced
                rows of steps, and the gradient of their core inputs -> gradient of the stem

A graph reads and writes at fixed places. Weights, gradients, the rows of an unroll and the sensitivity have theirs anyway; the rest is
copied in and out. The numbers are those of the same work without graphs, which tests hold and, where a network may be a user's own, a
trial at the start.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from actors.acting import Acted, Acting
from actors.gradients import Differentiation, UnrollGradient
from actors.graphs import GRAPHS, NotRecordableError, Recorded, copy_in
from actors.joined import agree, backpropagate, taken_gradients
from actors.stem import (
    ForwardStem,
    FrozenStem,
    RecomputedStem,
    StemPass,
    StepInput,
    concatenated,
    recomputed_rows,
    stem_parameters,
)
from actors.unroll import Unroll
from conf.knobs import ConfigError
from rtrl_core import CoreState, PolicyNetwork, PolicyOutput, carried
from rtrl_core.shapes import Tensor


class _RecordedStep:
    """Acting, for one number of rows."""

    def __init__(self, forward: StemPass, step: StepInput, cell: Any) -> None:
        self._step, self._cell = carried.map_leaves(torch.clone, (step, cell))
        self._network, self._forward = forward.network, forward
        self._recorded = Recorded(step.observation.device, self._act)

    @torch.no_grad()
    def _act(self) -> Acted:
        inputs = self._forward(self._step)
        output, cell = self._network.act(inputs, self._cell, self._step.is_first)
        return Acted(inputs, output, cell)

    def __call__(self, step: StepInput, cell: Any) -> Acted:
        """The results stand until the next call. Raises as ``Recorded``."""
        copy_in((step, cell), (self._step, self._cell))
        return self._recorded()


class RecordedPasses:
    """A network's acting passes, a graph for each number of rows.

    Args:
        step, cell: an example of one.

    Raises:
        NotRecordableError: for a network whose passes cannot be recorded.
    """

    def __init__(self, forward: StemPass, step: StepInput, cell: Any) -> None:
        self.forward = forward
        self._of_rows: dict[int, _RecordedStep] = {}
        if step.observation.device.type not in GRAPHS:
            raise NotRecordableError(f"there are no graphs on {step.observation.device}")
        self._try(step, cell)

    def __call__(self, step: StepInput, cell: Any) -> Acted:
        """Tensors of its own."""
        found = self._run(step, cell)
        inputs, parameters, values, after = carried.map_leaves(torch.clone, (found.inputs, *found.output, found.cell))
        return Acted(inputs, PolicyOutput(parameters, values), after)

    def look(self, step: StepInput, cell: Any) -> PolicyOutput | None:
        """``None`` for a number of rows that nothing is recorded of."""
        if len(step.is_first) not in self._of_rows:
            return None
        return PolicyOutput(*carried.map_leaves(torch.clone, tuple(self._run(step, cell).output)))

    def _run(self, step: StepInput, cell: Any) -> Acted:
        rows = len(step.is_first)
        if rows not in self._of_rows:
            self._of_rows[rows] = _RecordedStep(self.forward, step, cell)
        return self._of_rows[rows](step, cell)

    @torch.no_grad()
    def _try(self, step: StepInput, cell: Any) -> None:
        """A graph that has been given other numbers than those that it was recorded with says what a pass without one says."""
        self._run(step, cell)
        for number in range(3):
            other, state = (carried.map_leaves(lambda leaf, n=number: _other(leaf, n), part) for part in (step, cell))
            inputs = self.forward(other)
            output, after = self.forward.network.act(inputs, state, other.is_first)
            found = self._run(other, state)
            expected = carried.leaves((inputs, *output, after))
            for one, same in zip(expected, carried.leaves((found.inputs, *found.output, found.cell)), strict=True):
                if not torch.allclose(one.double(), same.double(), rtol=1e-2, atol=1e-4, equal_nan=True):
                    raise NotRecordableError("a pass that is done again does not say what the network says")


def _other(leaf: Tensor, number: int) -> Tensor:
    """Other numbers of the same kind: actions and words stay what they are, which another one might not be."""
    if leaf.dtype == torch.bool:
        return torch.full_like(leaf, number % 2 == 1)
    if leaf.dtype == torch.uint8:
        return (leaf + (37 + torch.arange(leaf.numel(), device=leaf.device).view_as(leaf) % 101) * number).to(
            leaf.dtype
        )
    if leaf.is_floating_point():
        return leaf + 0.1 * number * torch.linspace(-1, 1, leaf.numel(), dtype=leaf.dtype, device=leaf.device).view_as(
            leaf
        )
    return leaf.flip(0)


class RecordedActing(Acting):
    """
    Args:
        stem: needs nothing of the forward pass for its way back.
    """

    def __init__(self, network: PolicyNetwork, stem: ForwardStem, passes: RecordedPasses) -> None:
        super().__init__(network, stem)
        self._keep, self._passes = stem.keep, passes

    def act(self, step: StepInput, cell: Any) -> Acted:
        self._keep(step)
        return self._passes(step, cell)

    def look(self, step: StepInput, cell: Any) -> PolicyOutput:
        found = self._passes.look(step, cell)
        return super().look(step, cell) if found is None else found


def choose_passes(forward: StemPass, graphs: str, step: StepInput, cell: Any) -> RecordedPasses | None:
    """The passes that an actor acts with; ``None`` for none that are recorded.

    Args:
        graphs: ``auto``, ``never`` or ``always``.
        step, cell: an example of a step, and of what the core carries.

    Raises:
        ConfigError: if they cannot be recorded, but have to.
    """
    if graphs == "never":
        return None
    try:
        return RecordedPasses(forward, step, cell)
    except NotRecordableError as error:
        if graphs == "always":
            raise ConfigError(
                f"actors.cuda_graphs=always: this network cannot be recorded ({error}); auto goes on without graphs"
            ) from None
    return None


class RecordedStem(RecomputedStem):
    """Its passes for the gradient are graphs, one for each number of rows."""

    def __init__(self, forward: StemPass, rows_per_pass: int) -> None:
        super().__init__(forward, rows_per_pass)
        self._of_rows: dict[int, tuple[StepInput, Tensor, Recorded[None]]] = {}

    def _go_back(self, steps: Sequence[StepInput], gradients: Sequence[Tensor]) -> None:
        given, gradient = concatenated(steps), torch.cat(list(gradients))
        if len(gradient) not in self._of_rows:
            here, upstream = carried.map_leaves(torch.clone, given), gradient.clone()

            def back() -> None:
                backpropagate(self.forward(here), upstream)

            self._of_rows[len(gradient)] = here, upstream, Recorded(gradient.device, back)
        here, upstream, recorded = self._of_rows[len(gradient)]
        copy_in((given, gradient), (here, upstream))
        recorded()

    def is_right(self, example: StepInput) -> bool:
        """Whether a graph that has been given other numbers than those that it was recorded with gives the stem the gradient that a pass
        without one gives. Gradients that are there stay as they are."""
        parameters = [parameter for parameter in stem_parameters(self.forward.network) if parameter.requires_grad]
        before = taken_gradients(parameters)
        gradient = torch.linspace(-1, 1, len(example.is_first) * self.forward.network.input_size)
        gradient = gradient.view(len(example.is_first), -1).to(parameters[0])
        same = True
        for number in range(3):
            step = carried.map_leaves(lambda leaf, n=number: _other(leaf, n), example)
            backpropagate(self.forward(step), gradient)
            apart = taken_gradients(parameters)
            try:
                self._go_back([step], [gradient])
            except NotRecordableError:
                same = False
                break
            same = same and all(map(agree, taken_gradients(parameters), apart))
        for parameter, gradient in zip(parameters, before, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(gradient)
        self._of_rows.clear()
        return same


def choose_recorded_stem(forward: StemPass, budget_bytes: int, example: StepInput) -> ForwardStem:
    """For an actor whose acting passes are graphs: what autograd would keep of them is not there, so it computes it again."""
    if not any(parameter.requires_grad for parameter in stem_parameters(forward.network)):
        return FrozenStem(forward)
    rows = recomputed_rows(forward, example, budget_bytes)
    stem = RecordedStem(forward, rows)
    return stem if stem.is_right(example) else RecomputedStem(forward, rows)


class RecordedDifferentiation(Differentiation):
    """Of unrolls that lie at one place: the next overwrites the rows of the last."""

    def __init__(self, differentiation: Differentiation) -> None:
        super().__init__(differentiation.network, differentiation.parameters, differentiation.loss)
        self._recorded: _RecordedUnroll | None = None
        self._is_recordable = self.network.core.can_be_recorded

    def whole(self, unroll: Unroll) -> UnrollGradient:
        if self._is_recordable:
            if self._recorded is None or not self._recorded.is_of(unroll):
                self._recorded = _RecordedUnroll(self, unroll)
            try:
                return self._recorded.differentiate(unroll)
            except NotRecordableError:
                self._is_recordable, self._recorded = False, None
                self.network.core.abandon(unroll.before)
        return super().whole(unroll)

    def settle(self, after: CoreState) -> None:
        if self._recorded is None:
            super().settle(after)
        else:
            self._recorded.settle()

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        """In a recording it is ``settle`` alone that advances the sensitivity."""
        return self._recorded is not None or super().can_repeat(before, after)


class _RecordedUnroll:
    def __init__(self, differentiation: Differentiation, unroll: Unroll) -> None:
        core, device = differentiation.network.core, unroll.inputs.device
        self._unroll, self._sensitivity = unroll, unroll.before.sensitivity
        before = CoreState(carried.map_leaves(torch.clone, unroll.before.cell), self._sensitivity)
        self._before = before
        rows = replace(unroll, before=before)
        self._pass = Recorded(device, lambda: differentiation.part(rows))
        self._settle = Recorded(device, lambda: core.settle(before)) if core.carries_sensitivity else None

    def is_of(self, unroll: Unroll) -> bool:
        """The same rows, and a sensitivity at the same place."""
        leaves = zip(carried.leaves(unroll.before.sensitivity), carried.leaves(self._sensitivity), strict=True)
        return unroll is self._unroll and all(one is other for one, other in leaves)

    def differentiate(self, unroll: Unroll) -> UnrollGradient:
        copy_in(unroll.before.cell, self._before.cell)
        found = self._pass()
        return found._replace(after=CoreState(carried.map_leaves(torch.clone, found.after.cell), self._sensitivity))

    def settle(self) -> None:
        if self._settle is not None:
            self._settle()
