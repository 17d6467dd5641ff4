"""A core is a cell, a rule and parameters; what it carries is opaque: dense cells of several states, stacks."""

import jaxtyping
import pytest
import torch
from toy_parts import DenseCell, FullRTRL, LeakCell
from unrolled import rules_for

from rtrl_core import (
    ELSTM,
    RULES,
    Core,
    CoreState,
    DiagonalCore,
    GatedCore,
    NetworkSpec,
    PolicyNetwork,
    StackedCore,
    UnrolledCore,
    carried,
)
from rtrl_core.cores import Feedforward, build_core
from rtrl_core.policies import Categorical

STREAMS, INPUTS, UNITS = 3, 4, 5


def make(kind: str) -> Core:
    return {
        "dense": lambda: UnrolledCore(DenseCell(INPUTS, UNITS), FullRTRL()),
        "dense tbptt": lambda: UnrolledCore(DenseCell(INPUTS, UNITS), "tbptt"),
        "diagonal": lambda: DiagonalCore(INPUTS, UNITS, LeakCell()),
        "elstm": lambda: ELSTM(INPUTS, UNITS),
        "stack": lambda: StackedCore([ELSTM(INPUTS, UNITS), UnrolledCore(DenseCell(UNITS, 3), FullRTRL())]),
        "feedforward": lambda: Feedforward(INPUTS),
        "slstm": lambda: GatedCore(DiagonalCore(INPUTS, UNITS, "slstm")),
        "retnet": lambda: build_core("retnet", INPUTS, 8, "segment"),
        "ema": lambda: build_core("ema", INPUTS, UNITS, "segment"),
        "across layers": lambda: build_core("elstm", INPUTS, UNITS, "segment", layers=2, across_layers="exact"),
    }[kind]().double()


KINDS = ("dense", "dense tbptt", "diagonal", "elstm", "stack", "feedforward", "slstm", "retnet", "ema", "across layers")


def problem(steps: int = 12):
    inputs = torch.randn(steps, STREAMS, INPUTS, dtype=torch.float64)
    is_first = torch.rand(steps, STREAMS) < 0.2
    is_first[0] = True
    return inputs, is_first


def by_unrolls(core: Core, inputs, is_first, lengths) -> tuple[torch.Tensor, torch.Tensor, CoreState]:
    """Flat gradient of ``sum sin(outputs)``, outputs, and the last state."""
    core.zero_grad()
    state, outputs, start = core.initial_state(STREAMS), [], 0
    for length in lengths:
        rows = slice(start, start + length)
        given, state = core(inputs[rows], state, is_first[rows])
        if given.requires_grad:
            given.sin().sum().backward()
        outputs.append(given.detach())
        start += length
    gradients = [parameter.grad.flatten() for parameter in core.parameters() if parameter.grad is not None]
    return torch.cat(gradients) if gradients else torch.zeros(0), torch.cat(outputs), state


@pytest.mark.parametrize("lengths", [(12,), (5, 7), (1, 4, 1, 6), (1,) * 12], ids=str)
def test_a_dense_cell_of_several_states_has_the_gradient_of_the_whole_episode_under_a_rule_of_ones_own(lengths):
    core = make("dense")
    assert isinstance(core, UnrolledCore)
    inputs, is_first = problem()
    gradient, outputs, _ = by_unrolls(core, inputs, is_first, lengths)
    core.zero_grad()
    state, total = core.cell.zeros(STREAMS), torch.zeros((), dtype=torch.float64)
    for x, first in zip(inputs, is_first, strict=True):
        state = core.cell(x, carried.cleared(state, first))
        total = total + core.cell.output(state).sin().sum()
    total.backward()
    whole = torch.cat([parameter.grad.flatten() for parameter in core.parameters() if parameter.grad is not None])
    torch.testing.assert_close(gradient, whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(outputs.sin().sum(), total.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", rules_for(DenseCell(INPUTS, UNITS)))
def test_any_rule_for_any_cell_changes_only_credit_that_is_older_than_the_unroll(rule: str):
    inputs, is_first = problem()
    exact, other = make("dense"), UnrolledCore(DenseCell(INPUTS, UNITS), rule).double()
    other.load_state_dict(exact.state_dict())
    whole = [by_unrolls(core, inputs, is_first, (12,))[0] for core in (exact, other)]
    torch.testing.assert_close(*whole, rtol=1e-12, atol=1e-12)
    if RULES[rule].exact:
        parts = [by_unrolls(core, inputs, is_first, (3,) * 4)[0] for core in (exact, other)]
        torch.testing.assert_close(*parts, rtol=1e-9, atol=1e-12)


@pytest.fixture
def _as_in_production():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_as_in_production")
@pytest.mark.parametrize("kind", ["dense", "dense tbptt"])
def test_a_state_of_another_batch_is_refused_and_not_broadcast(kind: str):
    core = make(kind)
    inputs, is_first = problem(4)
    with pytest.raises(ValueError, match=r"state.cell must be of shape \[B ...\] = \[3, ...\], got \[1, 5\]"):
        core(inputs, core.initial_state(1), is_first)
    with pytest.raises(ValueError, match=r"cell_state must be of shape"):
        core.step(inputs[0], core.initial_state(1).cell, is_first[0])
    with pytest.raises(TypeError, match="state must be a CoreState"):
        core(inputs, core.initial_state(STREAMS).cell, is_first)
    if core.carries_sensitivity:
        mixed = core.initial_state(STREAMS)._replace(sensitivity=core.initial_state(1).sensitivity)
        with pytest.raises(ValueError, match=r"state.sensitivity must be of shape"):
            core(inputs, mixed, is_first)


def test_flags_and_counts_are_carried_as_they_are():
    held = (torch.tensor([True, True]), torch.tensor([3, 4]), torch.tensor([[1.0], [2.0]]))
    first = torch.tensor([True, False])
    cleared = carried.cleared(held, first)
    assert [leaf.dtype for leaf in cleared] == [torch.bool, torch.int64, torch.float32]
    assert [leaf[0].item() for leaf in cleared] == [False, 0, 0.0]
    norms = carried.stream_norms(held)
    assert norms is not None
    assert norms.tolist() == [1.0, 2.0]


def test_what_a_rule_leaves_out_is_credit_older_than_the_unroll_and_nothing_else():
    inputs, is_first = problem()
    exact, truncated = make("dense"), make("dense tbptt")
    truncated.load_state_dict(exact.state_dict())
    whole = [by_unrolls(core, inputs, is_first, (12,))[0] for core in (exact, truncated)]
    torch.testing.assert_close(*whole, rtol=1e-12, atol=1e-12)
    parts = [by_unrolls(core, inputs, is_first, (3,) * 4)[0] for core in (exact, truncated)]
    assert float((parts[0] - parts[1]).norm() / parts[0].norm()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_acting_gives_the_numbers_of_the_unroll(kind: str):
    core = make(kind)
    inputs, is_first = problem()
    _, outputs, last = by_unrolls(core, inputs, is_first, (12,))
    state = core.initial_state(STREAMS)
    for t in range(12):
        given, cell = core.step(inputs[t], state.cell, is_first[t])
        state = state._replace(cell=cell)
        torch.testing.assert_close(given, outputs[t])
    for ours, theirs in zip(carried.leaves(state.cell), carried.leaves(last.cell), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert outputs.shape[-1] == core.output_size


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_core_carries_can_be_selected_saved_reset_and_measured(kind: str):
    core = make(kind)
    _, _, state = by_unrolls(core, *problem(), (4, 8))
    again = carried.load(core.initial_state(STREAMS), carried.save(state))
    for ours, theirs in zip(carried.leaves(again), carried.leaves(state), strict=True):
        assert torch.equal(ours, theirs)
    some = torch.tensor([True, False, True])
    for part, whole in zip(carried.leaves(state.of(some)), carried.leaves(state), strict=True):
        assert torch.equal(part, whole[some])
    norms = core.stream_norms(state.sensitivity)
    assert (norms is not None) == core.carries_sensitivity
    for number, broken in enumerate(carried.leaves(state)):
        if not broken[0].numel():
            continue
        poisoned = carried.map_leaves(torch.clone, state)
        list(carried.leaves(poisoned))[number][1].view(-1)[-1] = float("nan")
        assert poisoned.finite_streams().tolist() == [True, False, True]
        clean = poisoned.reset(~poisoned.finite_streams())
        assert clean.finite_streams().all()
        assert not any(leaf[1].any() for leaf in carried.leaves(clean))
        for ours, theirs in zip(carried.leaves(clean), carried.leaves(state), strict=True):
            assert torch.equal(ours[some], theirs[some])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_begins_anew_forgets_what_was_not_finite(kind: str):
    core = make(kind)
    _, _, state = by_unrolls(core, *problem(), (12,))
    broken = carried.map_leaves(torch.clone, state)
    for leaf in carried.leaves(broken):
        leaf[1] = float("nan")
    inputs, is_first = problem(4)
    results = []
    for start in (state, broken):
        core.zero_grad()
        outputs, after = core(inputs, start, is_first)
        if outputs.requires_grad:
            outputs.sin().sum().backward()
        grads = [parameter.grad.clone() for parameter in core.parameters() if parameter.grad is not None]
        results.append([outputs.detach(), *carried.leaves(after), *grads])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_a_stack_is_what_its_layers_are_one_after_the_other():
    layers = [ELSTM(INPUTS, UNITS).double(), ELSTM(UNITS, 2).double()]
    stack = StackedCore(layers)
    inputs, is_first = problem()
    _, outputs, _ = by_unrolls(stack, inputs, is_first, (5, 7))
    states, expected = [layer.initial_state(STREAMS) for layer in layers], []
    for rows in (slice(0, 5), slice(5, 12)):
        lower, states[0] = layers[0](inputs[rows], states[0], is_first[rows])
        upper, states[1] = layers[1](lower, states[1], is_first[rows])
        expected.append(torch.cat([lower, upper], -1).detach())
    assert torch.equal(outputs, torch.cat(expected))


def test_cores_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match="layer 1 of a stack has 4 inputs, but the layer below it has 5 outputs"):
        StackedCore([ELSTM(INPUTS, UNITS), ELSTM(INPUTS, UNITS)])
    with pytest.raises(ValueError, match="a stack needs at least one layer"):
        StackedCore([])
    with pytest.raises(ValueError, match="rule segment is for diagonal cells only, which DenseCell is not"):
        UnrolledCore(DenseCell(INPUTS, UNITS), "segment")
    with pytest.raises(ValueError, match="rule full is not for diagonal cells such as ELSTMCell"):
        DiagonalCore(INPUTS, UNITS, rule=FullRTRL())
    with pytest.raises(ValueError, match="unknown core 'rnn': expected one of elstm, indrnn, mingru"):
        build_core("rnn", INPUTS, UNITS, "segment")
    saved = carried.save(make("elstm").initial_state(STREAMS))
    with pytest.raises(
        ValueError, match=r"expected torch.float64 \[3, 5\] in a saved state, got torch.float64 \[2, 5\]"
    ):
        carried.load(make("elstm").initial_state(STREAMS), carried.save(make("elstm").initial_state(2)))
    with pytest.raises(ValueError, match="expected matrices, vectors in a saved state"):
        carried.load(make("elstm").initial_state(STREAMS), {**saved, "sensitivity": {}})


def test_a_network_takes_any_core():
    for core in ("elstm", "feedforward", LeakCell(0.5), DenseCell):
        rule = FullRTRL() if core is DenseCell else "segment"
        spec = NetworkSpec((3,), "vector", Categorical(2), encoder="none", core=core, num_units=4, rule=rule)
        network = PolicyNetwork(spec)
        inputs, is_first = torch.randn(5, 2, network.input_size), torch.zeros(5, 2, dtype=torch.bool)
        output, state = network.unroll(inputs, network.initial_state(2), is_first)
        output.values.sum().backward()
        acted, _ = network.act(inputs[0], network.initial_state(2).cell, is_first[0])
        torch.testing.assert_close(acted.values, output.values[0].detach())
        assert state.finite_streams().all()
