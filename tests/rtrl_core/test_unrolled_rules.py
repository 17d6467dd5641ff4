"""Rules for cells whose units see each other: each changes credit older than the unroll and nothing else; exact ones are exact."""

import math

import jaxtyping
import pytest
import torch
from toy_parts import DenseCell, LeakCell, PlainRNN
from unrolled import rules_for

from rtrl_core import (
    RECURRENT_CELLS,
    RULES,
    DiagonalCore,
    GRUCell,
    LSTMCell,
    RecurrentCell,
    UnitwiseCell,
    UnrolledCore,
    UnrolledRule,
    carried,
)
from rtrl_core.rules import dense
from rtrl_core.rules.snap1 import SnAp1Rule

STREAMS, INPUTS, UNITS, STEPS = 3, 3, 4, 12
CELLS: dict[str, type[RecurrentCell]] = {**RECURRENT_CELLS, "rnn": PlainRNN, "toy": DenseCell}
LENGTHS = [(1,) * STEPS, (5, 4, 3), (STEPS,)]


FITTING = [(rule, cell) for cell, kind in CELLS.items() for rule in rules_for(kind(INPUTS, UNITS))]
CARRYING = [pair for pair in FITTING if RULES[pair[0]].carries_sensitivity]


def problem(steps: int = STEPS, streams: int = STREAMS, resets: bool = True):
    inputs = torch.randn(steps, streams, INPUTS, dtype=torch.float64)
    is_first = (torch.rand(steps, streams) < 0.15) & resets
    is_first[0] = True
    return inputs, is_first


def make_core(cell: str | RecurrentCell, rule: str | UnrolledRule) -> UnrolledCore:
    return UnrolledCore(CELLS[cell](INPUTS, UNITS) if isinstance(cell, str) else cell, rule).double()


def flat_gradient(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


def by_unrolls(core: UnrolledCore, inputs, is_first, lengths) -> torch.Tensor:
    """Gradient of ``sum sin(outputs)``."""
    core.zero_grad()
    state = core.initial_state(inputs.shape[1])
    for x, first in zip(inputs.split(lengths), is_first.split(lengths), strict=True):
        outputs, state = core(x, state, first)
        outputs.sin().sum().backward()
    return flat_gradient(core)


def through_episodes(core: UnrolledCore, inputs, is_first) -> torch.Tensor:
    """The same by autograd alone, with nothing carried."""
    core.zero_grad()
    state, total = core.cell.zeros(inputs.shape[1]), torch.zeros((), dtype=inputs.dtype)
    for x, first in zip(inputs, is_first, strict=True):
        state = core.cell(x, carried.cleared(state, first))
        total = total + core.cell.output(state).sin().sum()
    total.backward()
    return flat_gradient(core)


@pytest.mark.parametrize(("rule", "cell"), FITTING)
def test_one_unroll_of_whole_episodes_has_the_gradient_of_backpropagation(rule: str, cell: str):
    core, (inputs, is_first) = make_core(cell, rule), problem()
    found = by_unrolls(core, inputs, is_first, (STEPS,))
    torch.testing.assert_close(found, through_episodes(core, inputs, is_first), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS, ids=["one by one", "odd", "whole"])
@pytest.mark.parametrize(("rule", "cell"), [pair for pair in FITTING if RULES[pair[0]].exact])
def test_an_exact_rule_has_the_gradient_of_whole_episodes_however_they_are_cut(rule: str, cell: str, lengths):
    core, (inputs, is_first) = make_core(cell, rule), problem()
    found = by_unrolls(core, inputs, is_first, lengths)
    torch.testing.assert_close(found, through_episodes(core, inputs, is_first), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("rule", "cell"), CARRYING)
def test_with_nothing_carried_it_is_truncated_backpropagation(rule: str, cell: str):
    core, (inputs, _) = make_core(cell, rule), problem()
    truncated = UnrolledCore(core.cell, "tbptt")
    goes_on = torch.zeros(5, STREAMS, dtype=torch.bool)
    _, state = core(inputs[:5], core.initial_state(STREAMS), goes_on)
    gradients = []
    for other, sensitivity in ((core, core.initial_state(STREAMS).sensitivity), (truncated, None)):
        core.zero_grad()
        outputs, _ = other(inputs[5:10], state._replace(sensitivity=sensitivity), goes_on)
        outputs.sin().sum().backward()
        gradients.append(flat_gradient(core))
    assert torch.equal(*gradients)
    core.zero_grad()
    core(inputs[5:10], state, goes_on)[0].sin().sum().backward()
    assert not torch.allclose(flat_gradient(core), gradients[1])


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize(("rule", "cell"), [pair for pair in CARRYING if pair[1] != "rnn"])
def test_a_stream_that_begins_anew_forgets_whatever_it_held(rule: str, cell: str, start: int):
    core, (inputs, is_first) = make_core(cell, rule), problem(4)
    is_first[:] = False
    _, before = core(inputs, core.initial_state(STREAMS), is_first)
    broken = carried.map_leaves(torch.clone, before)
    for leaf in carried.leaves(broken):
        leaf[1] = math.nan if leaf.is_floating_point() else 77
    is_first[start, 1] = True
    core.zero_grad()
    outputs, after = core(inputs, broken, is_first)
    outputs.sin().sum().backward()
    if start == 0:  # otherwise what came before has outputs of its own, which are no numbers
        assert flat_gradient(core).isfinite().all()
    assert after.finite_streams().all()
    _, begun = core(inputs[start:, 1:2], core.initial_state(1), is_first[start:, 1:2])
    if rule != "uoro":  # whose noise is another
        for ours, alone in zip(carried.leaves(after), carried.leaves(begun), strict=True):
            torch.testing.assert_close(ours[1:2], alone, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell, PlainRNN])
def test_snap1_is_exact_where_the_recurrent_matrices_are_diagonal(kind: type[UnitwiseCell]):
    cell = kind(INPUTS, UNITS)
    with torch.no_grad():
        for group, matrix in zip(cell.groups, cell.matrices, strict=True):
            if group.sees_hidden:
                matrix[..., INPUTS * group.sees_inputs : -1] *= torch.eye(UNITS)
    inputs, is_first = problem()
    core = make_core(cell, "snap1")
    # Of weights off the diagonal it misses nothing either: they are zero, but they have gradients.
    expected = through_episodes(core, inputs, is_first)
    for lengths in LENGTHS:
        torch.testing.assert_close(by_unrolls(core, inputs, is_first, lengths), expected, rtol=1e-9, atol=1e-12)


def step_by_step(rule: SnAp1Rule, cell: UnitwiseCell, inputs, is_first) -> torch.Tensor:
    """SnAp-1 as it was published: ``sum_t e_t S_t``, in which backpropagation has no part at all."""
    state, sensitivity = cell.zeros(inputs.shape[1]), rule.initial(cell, inputs.shape[1])
    total = [torch.zeros_like(matrix) for matrix in cell.matrices]
    for x, first in zip(inputs, is_first, strict=True):
        sensitivity = rule.advance(cell, x.unsqueeze(0), state, first.unsqueeze(0), carried.cleared(sensitivity, first))
        with torch.no_grad():
            state = cell(x, carried.cleared(state, first))
        immediate = [*(torch.zeros_like(row) for row in carried.leaves(state))][:-1]
        credit = rule.credit(cell, (*immediate, cell.output(state).cos()), sensitivity)
        total = [one + other for one, other in zip(total, credit, strict=True)]
    return torch.cat([part.flatten() for part in total]).detach()


@pytest.fixture
def _shapes_are_not_checked():
    """What many short unrolls call is checked in the other tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.seconds
@pytest.mark.usefixtures("_shapes_are_not_checked")
@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
def test_snap1_by_segments_is_closer_than_truncation_and_than_step_by_step(kind: type[UnitwiseCell]):
    """On 25 random problems of an LSTM, and 10 of a GRU. With the error of the truncated gradient as the unit, below 0.7 on each."""
    for seed in range(25 if kind is LSTMCell else 10):
        torch.manual_seed(seed)
        units, length = 6 + seed % 3 * 4, 3 + seed % 4
        cell = kind(INPUTS, units).double()
        inputs, is_first = problem(2 * length, streams=4, resets=False)
        exact = through_episodes(UnrolledCore(cell), inputs, is_first)
        lengths = (length,) * 2
        truncated, ours = (
            by_unrolls(UnrolledCore(cell, rule), inputs, is_first, lengths) for rule in ("tbptt", "snap1")
        )
        published = step_by_step(SnAp1Rule(), cell, inputs, is_first)
        error, of_truncated, of_published = (float((found - exact).norm()) for found in (ours, truncated, published))
        assert error < 0.7 * of_truncated, seed
        assert error < of_published, seed


@pytest.mark.parametrize("rule", ["snap1", "leak"])
@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
def test_what_is_carried_follows_its_recursion(rule: str, kind: type[UnitwiseCell]):
    """``S_t = A_t S_{t-1} + g_t source_t^T``, one step at a time."""
    core, (inputs, is_first) = make_core(kind(INPUTS, UNITS), rule), problem()
    cell, expected = core.cell, core.initial_state(STREAMS).sensitivity
    assert isinstance(cell, UnitwiseCell)
    state = cell.zeros(STREAMS)
    with torch.no_grad():
        for x, first in zip(inputs, is_first, strict=True):
            rows = tuple(carried.leaves(carried.cleared(state, first)))
            sources, expected = cell.sources(x, rows[-1]), carried.cleared(expected, first)
            local = cell.derivatives(rows, cell.gates(sources))
            recurrence = cell.diagonal_blocks(local) if rule == "snap1" else local.state
            gates = torch.stack(local.gates, dim=1).split([len(matrix) for matrix in cell.matrices], dim=1)
            expected = tuple(
                torch.einsum("bmjn,bkjne->bkmne", recurrence, part) + gate[..., None] * source[:, None, None, None]
                for part, gate, source in zip(expected, gates, sources, strict=True)
            )
            state = cell(x, carried.rebuild(state, rows))
    advanced = core.initial_state(STREAMS)
    for x, first in zip(inputs.split((5, 1, 6)), is_first.split((5, 1, 6)), strict=True):
        _, advanced = core(x, advanced, first)
    for ours, theirs in zip(advanced.sensitivity, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_a_rule_that_does_not_fit_names_those_that_do(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        ValueError,
        match=r"rule segment is for diagonal cells only, which LSTMCell is not: use rule=tbptt, snap1, leak, uoro or dense$",
    ):
        make_core("lstm", "segment")
    with pytest.raises(
        ValueError,
        match=r"rule snap1 is for cells of the kind UnitwiseCell, which DenseCell is not: use rule=tbptt, uoro or dense$",
    ):
        make_core("toy", "snap1")
    with pytest.raises(ValueError, match=r"rule leak is for .* which DenseCell is not: use"):
        make_core("toy", "leak")
    for rule in ("snap1", "leak", "uoro", "dense"):
        with pytest.raises(
            ValueError,
            match=f"rule {rule} is not for diagonal cells such as LeakCell: use rule=segment, reference or tbptt$",
        ):
            DiagonalCore(INPUTS, UNITS, LeakCell(), rule)
    monkeypatch.setattr(dense, "LARGEST_BYTES", 1000)
    with pytest.raises(
        ValueError,
        match=r"rule dense would carry 0 MB for each stream of a LSTMCell of 4 units and 3 inputs.*: use rule=tbptt, snap1, leak or uoro$",
    ):
        make_core("lstm", "dense")


class NormedRNN(PlainRNN):
    """With a parameter that is no gate's."""

    def __init__(self, input_size: int, num_units: int) -> None:
        super().__init__(input_size, num_units)
        self.gain = torch.nn.Parameter(torch.ones(num_units))

    def update(self, rows, gates):
        return (self.gain * torch.tanh(gates[0]),)


def test_a_cell_with_parameters_beside_its_matrices_is_for_rules_that_see_all_of_it():
    with pytest.raises(
        ValueError,
        match="rule snap1 knows the matrices of a cell, but NormedRNN has other parameters too: use rule=tbptt, uoro or dense",
    ):
        make_core(NormedRNN(INPUTS, UNITS), "snap1")
    inputs, is_first = problem()
    core = make_core(NormedRNN(INPUTS, UNITS), "dense")
    expected = through_episodes(core, inputs, is_first)
    torch.testing.assert_close(by_unrolls(core, inputs, is_first, (5, 4, 3)), expected, rtol=1e-9, atol=1e-12)
    assert by_unrolls(make_core(NormedRNN(INPUTS, UNITS), "uoro"), inputs, is_first, (5, 4, 3)).isfinite().all()


class TickingRNN(RecurrentCell):
    """Counts its steps: a state has numbers that nothing can be differentiated by."""

    def __init__(self, input_size: int, num_units: int) -> None:
        super().__init__(input_size, num_units)
        self.layer = torch.nn.Linear(input_size + num_units, num_units)

    def zeros(self, batch_size: int):
        hidden = self.layer.weight.new_zeros(batch_size, self.num_units)
        return hidden, torch.zeros(batch_size, dtype=torch.int64)

    def forward(self, inputs, state):
        hidden, ticks = state
        pace = 1 / (1 + ticks.unsqueeze(-1))
        return torch.tanh(self.layer(torch.cat([inputs, hidden], -1))) * pace + (1 - pace) * hidden, ticks + 1

    def output(self, state):
        return state[0]


def test_counts_in_a_state_go_along():
    inputs, is_first = problem()
    core = make_core(TickingRNN(INPUTS, UNITS), "dense")
    expected = through_episodes(core, inputs, is_first)
    for lengths in LENGTHS:
        torch.testing.assert_close(by_unrolls(core, inputs, is_first, lengths), expected, rtol=1e-9, atol=1e-12)
    assert by_unrolls(UnrolledCore(core.cell, "uoro"), inputs, is_first, (5, 4, 3)).isfinite().all()


def test_products_of_blocks_stop_at_a_start():
    """A reset inside the unroll leaves nothing of the sensitivity before, to the last bit."""
    core, (inputs, is_first) = make_core("lstm", "snap1"), problem(6)
    is_first[:] = False
    is_first[2] = True
    states = [core.initial_state(STREAMS)]
    states.append(states[0]._replace(sensitivity=carried.map_leaves(torch.ones_like, states[0].sensitivity)))
    ours, theirs = (core(inputs, state, is_first)[1] for state in states)
    for one, other in zip(carried.leaves(ours), carried.leaves(theirs), strict=True):
        assert torch.equal(one, other)
