"""What a core does in a recording, where the host cannot look for the starts of episodes: the same numbers, done again without it."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tape import Tape
from torch import nn

from rtrl_core import CELLS, ELSTM, Core, CoreState, DiagonalCore, StackedCore, carried
from rtrl_core.cores import FEEDFORWARD, RefreshedCore, build_core
from rtrl_core.cores.side_by_side import SideBySideCore
from rtrl_core.recording import is_recording, recording

STREAMS, INPUTS, UNITS, BROKEN = 5, 4, 6, 2


def core_of(cell: str, rule: str) -> Core:
    return DiagonalCore(INPUTS, UNITS, cell, rule)


CORES: dict[str, Callable[[], Core]] = {
    **{f"{cell} {rule}": lambda c=cell, r=rule: core_of(c, r) for cell in CELLS for rule in ("segment", "tbptt")},
    "stack": lambda: StackedCore([ELSTM(INPUTS, UNITS), ELSTM(UNITS, 3)]),
    "stack of both rules": lambda: StackedCore([ELSTM(INPUTS, UNITS, "tbptt"), ELSTM(UNITS, 3)]),
    "side by side": lambda: SideBySideCore(core_of("elstm", "segment"), core_of("lru", "segment")),
    "feedforward": lambda: build_core(FEEDFORWARD, INPUTS, UNITS, "segment"),
}


class Unrolls:
    """One after the other, as an actor has a core do them; everything lies where it lay the last time."""

    def __init__(self, core: Core, steps: int) -> None:
        self.core = core
        core.advance_in_backward()
        for parameter in core.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.state = core.initial_state(STREAMS)
        self.inputs = torch.zeros(steps, STREAMS, core.input_size, dtype=torch.float64)
        self.is_first = torch.zeros(steps, STREAMS, dtype=torch.bool)
        self.weights = torch.zeros(steps, STREAMS, 1, dtype=torch.float64)

    def given(self, steps: tuple[torch.Tensor, ...]) -> None:
        for here, rows in zip((self.inputs, self.is_first, self.weights), steps, strict=True):
            here.copy_(rows)

    def differentiate(self) -> tuple[torch.Tensor, torch.Tensor, Any]:
        for parameter in self.core.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        inputs = self.inputs.detach().requires_grad_()
        outputs, after = self.core(inputs, self.state, self.is_first)
        (self.weights * outputs.sin()).sum().backward()
        assert inputs.grad is not None
        return outputs.detach(), inputs.grad, after.cell

    def settle(self) -> None:
        self.core.settle(self.state)

    def after(self, found: tuple[torch.Tensor, torch.Tensor, Any]) -> list[torch.Tensor]:
        """Everything that there is afterwards; the state is put back for the next."""
        for here, cell in zip(carried.leaves(self.state.cell), carried.leaves(found[2]), strict=True):
            here.copy_(cell)
        gradients = [parameter.grad for parameter in self.core.parameters() if parameter.grad is not None]
        return [t.clone() for t in (*found[:2], *gradients, *carried.leaves(self.state))]


def steps_of(core: Core, steps: int) -> tuple[torch.Tensor, ...]:
    inputs = torch.randn(steps, STREAMS, core.input_size, dtype=torch.float64)
    return inputs, torch.rand(steps, STREAMS) < 0.25, torch.randn(steps, STREAMS, 1, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.soak), 5])
@pytest.mark.parametrize("kind", CORES)
def test_an_unroll_that_is_done_again_gives_what_an_unroll_gives(kind: str, steps: int):
    plain = Unrolls(CORES[kind]().double(), steps)
    again = Unrolls(copy.deepcopy(plain.core), steps)
    assert again.core.can_be_recorded
    whole, rest = Tape(), Tape()
    found = whole.record(again.differentiate)
    rest.record(again.settle)
    for _ in range(4):
        given = steps_of(plain.core, steps)
        plain.given(given)
        expected = plain.differentiate()
        plain.settle()
        again.given(given)
        whole.replay()
        rest.replay()
        for one, other in zip(plain.after(expected), again.after(found), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-13)
        with torch.no_grad():
            for parameter in (*plain.core.parameters(), *again.core.parameters()):
                parameter.mul_(0.9)


def test_what_a_tape_records_has_not_happened():
    unrolls = Unrolls(core_of("elstm", "segment").double(), 3)
    unrolls.given(steps_of(unrolls.core, 3))
    gradients = [parameter.grad for parameter in unrolls.core.parameters() if parameter.grad is not None]
    now = [*carried.leaves(unrolls.state), *gradients]
    kept = [tensor.clone() for tensor in now]
    Tape().record(lambda: (unrolls.differentiate(), unrolls.settle()))
    assert all(torch.equal(one, other) for one, other in zip(kept, now, strict=True))


@pytest.mark.parametrize("core", ["host", "list"])
def test_what_would_have_the_host_look_cannot_be_taped(core: str):
    """As a stream that is capturing refuses it: the stand-in is no kinder than the real thing."""
    numbers = torch.randn(4)
    work = {"host": lambda: float(numbers.sum()), "list": lambda: numbers[numbers > 0]}[core]
    with pytest.raises(RuntimeError, match="capturing"):
        Tape().record(work)


@pytest.mark.parametrize("poison", [math.nan, pytest.param(math.inf, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("steps", "start"), [(1, 0), (3, 0), (6, 5)])
@pytest.mark.parametrize("rule", ["segment", "tbptt"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_stream_that_begins_anew_forgets_what_was_not_finite(
    cell: str, rule: str, steps: int, start: int, poison: float
):
    results = []
    given = steps_of(DiagonalCore(INPUTS, UNITS), steps)
    given[1][:] = False
    given[1][start, BROKEN] = True
    given[0][:start, BROKEN] = poison
    core = core_of(cell, rule).double()
    for recorded in (False, True):
        unrolls = Unrolls(copy.deepcopy(core), steps)
        for leaf in carried.leaves(unrolls.state):
            leaf.normal_(generator=torch.Generator().manual_seed(1))
            leaf[BROKEN] = poison
        unrolls.given(given)
        if recorded:
            tape, rest = Tape(), Tape()
            found = tape.record(unrolls.differentiate)
            rest.record(unrolls.settle)
            tape.replay()
            rest.replay()
        else:
            found = unrolls.differentiate()
            unrolls.settle()
        results.append(unrolls.after(found))
        assert unrolls.state.finite_streams().all()
        assert found[1][start:].isfinite().all()
        if not start:
            assert all(leaf.isfinite().all() for leaf in results[-1])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize(
    "core",
    [
        lambda: RefreshedCore(DiagonalCore(INPUTS, UNITS), window=8, every=2, unroll=4),
        lambda: DiagonalCore(INPUTS, UNITS, rule="reference"),
        lambda: build_core("lstm", INPUTS, UNITS, "snap1"),
        lambda: build_core("elstm", INPUTS, UNITS, "segment", layers=2, across_layers="exact"),
        lambda: build_core("retnet", INPUTS, 8, "segment"),
    ],
    ids=["refreshed", "reference", "snap1", "exact across layers", "retnet"],
)
def test_a_core_whose_work_changes_or_that_the_host_must_look_at_says_so(core: Callable[[], Core]):
    made = core()
    made.advance_in_backward()
    assert not made.can_be_recorded


def test_a_core_that_keeps_what_two_passes_need_is_not_recorded():
    assert not DiagonalCore(INPUTS, UNITS).can_be_recorded
    assert DiagonalCore(INPUTS, UNITS, rule="tbptt").can_be_recorded


def test_a_core_of_ones_own_is_not_recorded_unless_it_says_so():
    class Own(Core):
        input_size = output_size = 2

        @property
        def carries_sensitivity(self) -> bool:
            return False

        def initial_state(self, batch_size: int) -> CoreState:
            return CoreState(torch.zeros(batch_size, 0), None)

        def forward(self, inputs: Any, state: Any, is_first: Any) -> Any:
            return inputs, state

        def step(self, inputs: Any, cell_state: Any, is_first: Any) -> Any:
            return inputs, cell_state

    assert isinstance(Own(), nn.Module)
    assert not Own().can_be_recorded


def test_recordings_end_with_their_block():
    def fail() -> None:
        with recording(), recording():
            assert is_recording()
            raise ValueError("x")

    assert not is_recording()
    with pytest.raises(ValueError, match="x"):
        fail()
    assert not is_recording()
