"""The way from observations to core inputs while acting, and the way back for the gradient, and the ways to pay for it.

Everything below the recurrent core (encoder, instruction reader) is run once per step while acting. Its gradient needs the
activations of that pass: *retained* until the unroll ends, and gone back over step by step or *joined*, several steps at once; or
*recomputed* from the observations, a second forward pass that saves memory. A *frozen* stem needs none of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from actors.joined import JoinedPasses, Pass, backpropagate
from rtrl_core import carried
from rtrl_core.network import PolicyNetwork
from rtrl_core.shapes import Bool, Float, Int, Shaped, Tensor

ROWS_AT_ONCE = {"cpu": 128, "accelerator": 4096}
"""Observations that go through the encoder together, forward or back: on a CPU what stays in its caches, on a GPU what fills it."""
JOINED_BYTES = {"cpu": 32 << 20, "accelerator": 1 << 30}
"""Of kept activations that a backward pass is over, at most: beyond, they leave the cache."""


class StepInput(NamedTuple):
    """What the network sees at one step."""

    observation: Shaped[Tensor, "B ..."]
    last_reward: Float[Tensor, " B"]
    """Clipped."""
    last_action: Shaped[Tensor, "B ..."]
    is_first: Bool[Tensor, " B"]
    instruction: Int[Tensor, "B L"] | None

    def of(self, streams: Bool[Tensor, " B"] | Int[Tensor, " S"] | slice) -> "StepInput":
        """These streams only."""
        return StepInput(
            self.observation[streams],
            self.last_reward[streams],
            self.last_action[streams],
            self.is_first[streams],
            None if self.instruction is None else self.instruction[streams],
        )


class StemPass:
    """One forward pass from a step's inputs to core inputs, in the arithmetic of this actor."""

    def __init__(self, network: PolicyNetwork, autocast: torch.dtype | None) -> None:
        self.network = network
        self._autocast = autocast

    def __call__(self, step: StepInput) -> Float[Tensor, "B D"]:
        with self._precision(step.observation.device.type):
            features = self.network.encode(step.observation)
        return self.network.core_inputs(features, step.last_reward, step.last_action, step.is_first, step.instruction)

    def _precision(self, device: str) -> torch.autocast:
        # Entered anew at each step: the context caches the low-precision copies of the weights, and through one cached copy
        # the gradients of all steps would be summed in low precision.
        return torch.autocast(device, dtype=self._autocast or torch.bfloat16, enabled=self._autocast is not None)


class Stem(ABC):
    """The stem of one actor, with what it keeps of the present unroll."""

    def __init__(self, forward: StemPass) -> None:
        self.forward = forward

    @torch.no_grad()
    def look(self, step: StepInput) -> Float[Tensor, "B D"]:
        """Core inputs of a step that is no part of the unroll: it gets no gradient."""
        return self.forward(step)

    @abstractmethod
    def inputs(self, step: StepInput) -> Float[Tensor, "B D"]:
        """Core inputs of the next step of the unroll, outside autograd."""

    @abstractmethod
    def backward(self, gradient: Sequence[Tensor] | Float[Tensor, "T B D"]) -> None:
        """Adds the unroll's gradient to the stem's parameters and forgets the unroll.

        Args:
            gradient: by the core inputs, one after the other as they were asked for.
        """


class RetainedStem(Stem):
    """Keeps the graph of every step: one forward pass per step, the memory of T passes."""

    def __init__(self, forward: StemPass) -> None:
        super().__init__(forward)
        self._graphs: list[Tensor] = []

    def inputs(self, step: StepInput) -> Float[Tensor, "B D"]:
        inputs = self.forward(step)
        self._graphs.append(inputs)
        return inputs.detach()

    def backward(self, gradient: Sequence[Tensor] | Float[Tensor, "T B D"]) -> None:
        graphs, self._graphs = self._graphs, []
        # Last step first, the order in which the memory was taken; each graph is freed as soon as it has been used.
        for step_gradient in reversed(list(gradient)):
            backpropagate(graphs.pop(), step_gradient)


class JoinedStem(Stem):
    """Keeps what every forward pass kept for its way back, and goes back over several passes at a time.

    Args:
        passes: of the network, which can be joined.
        rows: that it goes back over at once, if a pass does not have more.
    """

    def __init__(self, forward: StemPass, passes: JoinedPasses[StepInput], rows: int) -> None:
        super().__init__(forward)
        self._joined, self._rows = passes, rows
        self._passes: list[Pass] = []

    def inputs(self, step: StepInput) -> Float[Tensor, "B D"]:
        made = self._joined.forward(step)
        self._passes.append(made)
        return made.output

    def backward(self, gradient: Sequence[Tensor] | Float[Tensor, "T B D"]) -> None:
        passes, self._passes = self._passes, []
        gradients = list(gradient)
        while passes:  # the last first, as in RetainedStem
            at_once = max(1, self._rows // len(gradients[-1]))
            self._joined.backward(passes[-at_once:], torch.cat(gradients[-at_once:]))
            del passes[-at_once:], gradients[-at_once:]


class ForwardStem(Stem):
    """One that needs nothing of its forward pass for the way back: somebody else may have done it."""

    @torch.no_grad()
    def inputs(self, step: StepInput) -> Float[Tensor, "B D"]:
        self.keep(step)
        return self.forward(step)

    @abstractmethod
    def keep(self, step: StepInput) -> None:
        """Of the next step of the unroll, what ``backward`` will need."""


class RecomputedStem(ForwardStem):
    """Keeps only what came in, and runs the forward pass again for the gradient, several steps at a time.

    Args:
        rows_per_pass: at most, if a step does not have more.
    """

    def __init__(self, forward: StemPass, rows_per_pass: int) -> None:
        super().__init__(forward)
        self._rows = rows_per_pass
        self._steps: list[StepInput] = []

    def keep(self, step: StepInput) -> None:
        self._steps.append(step)

    def backward(self, gradient: Sequence[Tensor] | Float[Tensor, "T B D"]) -> None:
        steps, self._steps = self._steps, []
        gradients = list(gradient)
        passes = -(-len(steps) // max(1, self._rows // len(gradients[0])))
        at_once = -(-len(steps) // passes)  # passes of one size, as far as that goes
        for start in range(0, len(steps), at_once):
            chunk = slice(start, start + at_once)
            self._go_back(steps[chunk], gradients[chunk])

    def _go_back(self, steps: Sequence[StepInput], gradients: Sequence[Tensor]) -> None:
        backpropagate(self.forward(concatenated(steps)), torch.cat(list(gradients)))


class StemOfGroups:
    """The way back of a stem whose steps are of groups of streams, one after the other: for the gradient of whole rows.

    Args:
        streams: of each group, in the order in which they are stepped.
    """

    def __init__(self, stem: Stem, streams: Sequence[slice]) -> None:
        self._stem, self._streams = stem, tuple(streams)

    def backward(self, gradient: Float[Tensor, "T B D"]) -> None:
        self._stem.backward([row[streams] for row in gradient for streams in self._streams])


class FrozenStem(ForwardStem):
    """No gradient, nothing kept."""

    def keep(self, step: StepInput) -> None:
        del step

    def backward(self, gradient: Sequence[Tensor] | Float[Tensor, "T B D"]) -> None:
        del gradient


def choose_stem(
    network: PolicyNetwork,
    *,
    activations: str,
    budget_bytes: int,
    autocast: torch.dtype | None,
    passes: int,
    example: StepInput,
) -> Stem:
    """The stem for ``activations`` = ``retain``, ``recompute`` or ``auto``: retain while an unroll's activations fit the budget.

    Args:
        passes: that an unroll takes.
        example: the input of one of them, whose forward pass is measured for ``auto``.
    """
    forward = StemPass(network, autocast)
    if not any(parameter.requires_grad for parameter in stem_parameters(network)):
        return FrozenStem(forward)
    if activations == "auto":
        fits = passes * saved_bytes(forward, example) <= budget_bytes
        activations = "retain" if fits else "recompute"
    if activations == "recompute":
        return RecomputedStem(forward, recomputed_rows(forward, example, budget_bytes))
    rows = joined_rows(forward, example)
    if rows >= 2 * len(example.is_first):
        joined = join_passes(forward, example)
        if joined is not None:
            return JoinedStem(forward, joined, rows)
    return RetainedStem(forward)


def join_passes(forward: StemPass, example: StepInput) -> JoinedPasses[StepInput] | None:
    """``None`` of a network whose passes cannot be joined. The example itself, which is somebody else's memory, is not kept."""
    blank = example.of(torch.zeros(1, dtype=torch.int64))
    blank.observation.zero_()
    passes = JoinedPasses(forward, lambda count: blank.of(torch.zeros(count, dtype=torch.int64)))
    telling = [example.of(torch.arange(count) % len(example.is_first)) for count in (2, 3)]
    for rows in telling:
        if not rows.observation.any():  # a game that begins in the dark
            rows.observation.fill_(1)
    return passes if passes.can_join(stem_parameters(forward.network), telling) else None


def joined_rows(forward: StemPass, example: StepInput) -> int:
    """How many rows a backward pass over what is kept should be over."""
    device = example.observation.device
    row_bytes = max(1, saved_bytes(forward, example) // len(example.is_first))
    return min(rows_at_once(device), JOINED_BYTES[_kind(device)] // row_bytes)


def recomputed_rows(forward: StemPass, example: StepInput, budget_bytes: int) -> int:
    """How many rows a forward pass for the gradient should be over; elsewhere than on a CPU, what fits the budget."""
    device = example.observation.device
    if device.type == "cpu":
        return rows_at_once(device)
    row_bytes = max(1, saved_bytes(forward, example) // len(example.is_first))
    return max(1, min(rows_at_once(device), budget_bytes // row_bytes))


def rows_at_once(device: torch.device) -> int:
    """See ``ROWS_AT_ONCE``."""
    return ROWS_AT_ONCE[_kind(device)]


def _kind(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "accelerator"


def stem_parameters(network: PolicyNetwork) -> list[nn.Parameter]:
    parameters = list(network.encoder.parameters())
    if network.instruction_encoder is not None:
        parameters += list(network.instruction_encoder.parameters())
    return parameters


def saved_bytes(forward: StemPass, example: StepInput) -> int:
    """Bytes that autograd keeps for one step's gradient, parameters and views of them not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in forward.network.parameters()}
    storages: dict[int, int] = {}

    def remember(tensor: Tensor) -> None:
        """Keeps nothing for a way back: a result that its own graph held would never be freed."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda nothing: nothing):
        forward(example)
    return sum(storages.values())


def concatenated(steps: Sequence[StepInput]) -> StepInput:
    """The rows of all of them as those of one."""
    return steps[0] if len(steps) == 1 else carried.joined(steps)
