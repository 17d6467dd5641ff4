"""The credit that a sensitivity gives is measured for what it is, and compared with an exact rule's where there is one."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from toy_parts import DenseCell, FullRTRL

from rtrl_core import ELSTM, RULES, DiagonalCore, StackedCore, UnrolledCore
from rtrl_core.fidelity import Fidelity, compare, exact_twin, older_credit
from rtrl_core.rules import SegmentRule

T, B, D, N = 5, 3, 4, 6


@dataclass(frozen=True, slots=True)
class Unsure(SegmentRule):
    """A rule that does not say that it is exact."""

    name: ClassVar[str] = "unsure"
    exact: ClassVar[bool] = False


def test_older_credit_is_the_adjoint_of_the_carried_state_times_the_sensitivity():
    core = DiagonalCore(D, N).double()
    inputs, is_first = torch.randn(T, B, D, dtype=torch.float64), torch.zeros(T, B, dtype=torch.bool)
    _, state = core(inputs, core.initial_state(B), is_first)
    adjoint = torch.randn(T, B, N, dtype=torch.float64)
    before = state.cell.requires_grad_()
    cell, total = before, torch.zeros((), dtype=torch.float64)
    for x, weight in zip(inputs, adjoint, strict=True):
        cell = core.cell.forward(cell, torch.stack([x @ matrix.t() for matrix in core.matrices], 1), core.vectors)
        total = total + (weight * cell).sum()
    (lam,) = torch.autograd.grad(total, before)
    expected = [
        (lam[:, None, :, None] * state.sensitivity.matrices).sum(0),
        (lam[:, None] * state.sensitivity.vectors).sum(0),
    ]
    found = older_credit(core, inputs, state._replace(cell=before.detach()), is_first, adjoint)
    torch.testing.assert_close(found, torch.cat([part.detach().flatten() for part in expected]), rtol=1e-9, atol=1e-12)
    assert core.matrices.grad is None


def test_fidelity_is_the_cosine_and_the_relative_error():
    wanted = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert compare(wanted, wanted) == Fidelity(1.0, 0.0)
    assert compare(2 * wanted, wanted) == Fidelity(1.0, 1.0)
    assert compare(0 * wanted, wanted) == Fidelity(0.0, 1.0)  # as truncated backpropagation
    assert compare(torch.tensor([-4.0, 3.0], dtype=torch.float64), wanted) == Fidelity(0.0, 2**0.5)
    assert compare(wanted, 0 * wanted) is None
    assert compare(wanted * torch.nan, wanted) is None


def test_an_exact_rule_is_known_by_the_kind_of_core():
    drawn = torch.get_rng_state()
    for core in (
        ELSTM(D, N, Unsure()),
        DiagonalCore(D, N, rule=Unsure()),
        UnrolledCore(DenseCell(D, 2), FullRTRL(0.5)),
    ):
        before = torch.get_rng_state()
        twin = exact_twin(core.double(), 1 << 20)
        assert torch.equal(torch.get_rng_state(), before)
        assert twin is not None
        twin.load_state_dict(core.state_dict())
        assert next(twin.parameters()).dtype == torch.float64
        assert (exact_twin(core, 100) is None) == isinstance(core, UnrolledCore)
    assert not torch.equal(drawn, torch.get_rng_state())  # the cores themselves were drawn
    for core in (ELSTM(D, N), ELSTM(D, N, "tbptt").core, StackedCore([ELSTM(D, N, Unsure())])):
        expected = isinstance(core, DiagonalCore)  # truncated: there is an exact one for it
        assert (exact_twin(core, 1 << 20) is not None) == expected


def test_without_an_exact_rule_for_dense_cells_there_is_nothing_to_compare_with(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(RULES, "dense", raising=False)
    assert exact_twin(UnrolledCore(DenseCell(D, 2), FullRTRL()), 1 << 20) is None
