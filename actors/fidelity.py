"""Measures, while an actor trains, how good the credit is that its sensitivity gives: one stream, now and then, and nothing is changed.

The core inputs of one stream are kept from the start of its episode on. Every ``every`` unrolls its sensitivity is computed from there
again, under the present weights, and the credit that both give for the past is compared (``rtrl_core/fidelity.py``). Under a rule that is
not exact also with what an exact one would give, where that is small enough to be carried.

    sensitivity   the carried one, against a fresh one of the same rule: what older weights have spoilt. Of a rule that draws random
                  numbers also what two draws differ by
    rule          the carried one, against a fresh one of an exact rule: all that is wrong with it
"""

from copy import deepcopy
from typing import NamedTuple

import torch

from actors.gradients import unroll_losses
from actors.unroll import Unroll
from conf.schema import LossConfig
from rtrl_core import Core, CoreState, PolicyNetwork, RefreshedCore, carried
from rtrl_core.fidelity import Fidelity, compare, exact_twin, older_credit
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import forked_generators

EXACT_BYTES = 1 << 20
"""What an exact rule for dense cells may carry for one stream, in float64, to be compared with: about 20 units of an LSTM."""


class Figures(NamedTuple):
    sensitivity: Fidelity | None = None
    rule: Fidelity | None = None


class FidelityProbe:
    """Follows one stream of an actor.

    Args:
        network: the actor's, whose core advances nothing in place yet, and carries a sensitivity.
        every: unrolls between two measurements; one that finds no episode waits for the next.
        longest: steps of an episode that are kept: of a longer one nothing is known, and another stream is followed.
        seed: of which stream is followed.

    Nothing that it holds goes into a checkpoint: a run that goes on chooses a stream anew.
    """

    def __init__(self, network: PolicyNetwork, loss: LossConfig, *, every: int, longest: int, seed: int) -> None:
        self._network = network
        self._loss = loss
        self._every = every
        self._choice = torch.Generator().manual_seed(seed)
        self._fresh = deepcopy(_inside(network.core)).double()
        self._exact = exact_twin(self._fresh, EXACT_BYTES)
        example = next(network.core.parameters())
        self._inputs = torch.zeros(longest, 1, network.input_size, dtype=torch.float64, device=example.device)
        self._filled = 0
        self._stream: int | None = None
        self._since = 0

    def forget(self, streams: Bool[Tensor, " B"] | None = None) -> None:
        """What these streams, or all, carry is not what their episodes would have left any more."""
        if self._stream is not None and (streams is None or bool(streams[self._stream])):
            self._stream = None

    def see(self, unroll: Unroll) -> Figures:
        """Between an unroll and its gradient, while ``unroll.before`` is what the core carried. It changes nothing that others use."""
        self._since += 1
        is_first = unroll.is_first.cpu()
        figures = Figures()
        if self._since >= self._every and self._stream is not None and not is_first[0, self._stream]:
            with forked_generators([unroll.is_first.device]):
                figures = self._measure(unroll, self._stream)
            self._since = 0
        self._follow(unroll, is_first)
        return figures

    def _follow(self, unroll: Unroll, is_first: Bool[Tensor, "T B"]) -> None:
        starts = is_first.any(0)
        begin = 0
        if self._stream is None or starts[self._stream]:
            begun = starts.nonzero().squeeze(1)
            if not len(begun):
                return
            self._stream = int(begun[torch.randint(len(begun), (), generator=self._choice)])
            self._filled, begin = 0, int(is_first[:, self._stream].nonzero().max())
        rows = unroll.inputs[begin:, self._stream]
        if self._filled + len(rows) > len(self._inputs):
            self._stream = None
            return
        self._inputs[self._filled : self._filled + len(rows), 0] = rows
        self._filled += len(rows)

    def _measure(self, unroll: Unroll, stream: int) -> Figures:
        of_stream = torch.zeros(unroll.num_envs, dtype=torch.bool, device=unroll.is_first.device)
        of_stream[stream] = True
        alone = unroll.of(of_stream)
        core = self._network.core
        before = core.inner(alone.before) if isinstance(core, RefreshedCore) else alone.before
        before = carried.map_leaves(_wider, before)
        adjoint = self._adjoint(alone, before)
        found = self._credit(self._fresh, alone, before, adjoint)
        fresh = self._credit(self._fresh, alone, self._from_start(self._fresh, before), adjoint)
        if self._exact is None:
            return Figures(compare(found, fresh))
        self._exact.load_state_dict(self._fresh.state_dict())
        wanted = self._credit(self._exact, alone, self._from_start(self._exact, before), adjoint)
        return Figures(compare(found, fresh), compare(found, wanted))

    def _adjoint(self, alone: Unroll, before: CoreState) -> Float[Tensor, "T 1 H"]:
        """Gradient of the stream's loss by the core's outputs."""
        self._fresh.load_state_dict(_inside(self._network.core).state_dict())
        with torch.no_grad():
            outputs, _ = self._fresh(alone.inputs.double(), before, alone.is_first)
        outputs = outputs.to(self._network.value_head.weight.dtype).requires_grad_()
        losses, _ = unroll_losses(self._network, self._network.heads(outputs), alone, self._loss)
        return torch.autograd.grad(losses.total, outputs)[0].double()

    @staticmethod
    def _credit(
        core: Core, alone: Unroll, before: CoreState, adjoint: Float[Tensor, "T 1 H"]
    ) -> Float[Tensor, " parameters"]:
        return older_credit(core, alone.inputs.double(), before, alone.is_first, adjoint)

    def _from_start(self, core: Core, before: CoreState) -> CoreState:
        """``before`` with the sensitivity that the present weights leave after the episode so far."""
        inputs = self._inputs[: self._filled]
        is_first = torch.zeros(self._filled, 1, dtype=torch.bool, device=inputs.device)
        is_first[0] = True
        return before._replace(sensitivity=core.advance(inputs, core.initial_state(1), is_first).sensitivity)


def _inside(core: Core) -> Core:
    return core.core if isinstance(core, RefreshedCore) else core


def _wider(tensor: Tensor) -> Tensor:
    return (
        tensor.double()
        if tensor.is_floating_point()
        else tensor.to(torch.complex128)
        if tensor.is_complex()
        else tensor
    )
