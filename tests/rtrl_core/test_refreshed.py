"""Anchored refresh: a sensitivity computed anew from where it was W steps ago, and nothing else about the core changed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jaxtyping
import pytest
import torch
from toy_parts import DenseCell, FullRTRL

from rtrl_core import (
    ELSTM,
    Core,
    CoreState,
    DiagonalCore,
    FlatParameters,
    RefreshedCore,
    StackedCore,
    UnrolledCore,
    UnrolledRule,
    carried,
)

STREAMS, INPUTS, UNITS, UNROLL = 3, 4, 5, 4


@dataclass(frozen=True, slots=True)
class Fading(UnrolledRule[torch.Tensor]):
    """What it carries is no derivative, but depends on weights, inputs and starts as one does, and takes no time."""

    name: ClassVar[str] = "fading"
    carries_sensitivity: ClassVar[bool] = True

    def initial(self, cell, batch_size):
        return cell.outside.weight.new_zeros(batch_size, *cell.outside.weight.shape)

    def advance(self, cell, inputs, state, is_first, sensitivity):
        for x, first in zip(inputs, is_first, strict=True):
            state = cell(x, carried.cleared(state, first))
            now = torch.cat([x, state.slow], -1)
            sensitivity = 0.9 * carried.cleared(sensitivity, first) + state.hidden[:, :, None] * now[:, None]
        return sensitivity

    def credit(self, cell, adjoint, sensitivity):
        by_weight = (adjoint.hidden[:, :, None] * sensitivity).sum(0)
        return tuple(by_weight if parameter is cell.outside.weight else None for parameter in cell.parameters())


KINDS: dict[str, Callable[[], Core]] = {
    "diagonal": lambda: DiagonalCore(INPUTS, UNITS),
    "elstm": lambda: ELSTM(INPUTS, UNITS),
    "dense": lambda: UnrolledCore(DenseCell(INPUTS, 3), Fading()),
    "stack": lambda: StackedCore([ELSTM(INPUTS, UNITS), UnrolledCore(DenseCell(UNITS, 2), Fading())]),
    "full": lambda: UnrolledCore(DenseCell(INPUTS, 2), FullRTRL()),
}
QUICK = [kind for kind in KINDS if kind != "full"]


@pytest.fixture(autouse=True)
def _shapes_are_checked_of_one_kind(request: pytest.FixtureRequest, _shapes_are_checked: None) -> None:
    """Of all kinds, looking at them would be most of the time."""
    jaxtyping.config.update("jaxtyping_disable", "elstm-1" not in request.node.name)


def both(kind: str, *, window: int = 8, every: int = 1, reuse: bool = False) -> tuple[Core, RefreshedCore]:
    """A core, and the same core with a refresh."""
    plain, refreshed = KINDS[kind]().double(), KINDS[kind]().double()
    refreshed.load_state_dict(plain.state_dict())
    wrapped = RefreshedCore(refreshed, window=window, every=every, unroll=UNROLL)
    if reuse:
        wrapped.advance_in_backward()
    return plain, wrapped


def problem(steps: int, often: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    is_first = torch.rand(steps, STREAMS) < often
    is_first[0] = True
    return torch.randn(steps, STREAMS, INPUTS, dtype=torch.float64), is_first


def drift(*cores: Core, size: float = 0.02) -> None:
    """The next weights, the same for all."""
    change = [size * torch.randn_like(parameter) for parameter in cores[0].parameters()]
    with torch.no_grad():
        for core in cores:
            for parameter, step in zip(core.parameters(), change, strict=True):
                parameter += step


def unrolls(steps: int) -> list[slice]:
    return [slice(start, start + UNROLL) for start in range(0, steps, UNROLL)]


def advance(core: Core, inputs, state: CoreState, is_first) -> CoreState:
    """One unroll with its backward pass, as an actor makes it."""
    outputs, after = core(inputs, state, is_first)
    outputs.sin().sum().backward()
    return after


def fresh(core: Core, inputs, is_first) -> CoreState:
    """The oracle: everything from the first step on, under the present weights, in one unroll."""
    with torch.no_grad():
        return core(inputs, core.initial_state(inputs.shape[1]), is_first)[1]


def assert_same(ours, theirs, *, within: float = 1e-9) -> None:
    for one, other in zip(carried.leaves(ours), carried.leaves(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=within, atol=within)


@pytest.mark.parametrize(("kind", "reuse"), [*((kind, True) for kind in QUICK), ("elstm", False)])
def test_with_weights_that_stand_still_it_changes_nothing(kind: str, reuse: bool):
    plain, wrapped = both(kind, every=2, reuse=reuse)
    inputs, is_first = problem(24, often=0.1)
    ours, theirs = wrapped.initial_state(STREAMS), plain.initial_state(STREAMS)
    for rows in unrolls(24):
        ours = wrapped.refreshed(ours)
        results = []
        for core, state in ((wrapped, ours), (plain, theirs)):
            core.zero_grad()
            outputs, after = core(inputs[rows], state, is_first[rows])
            outputs.sin().sum().backward()
            results.append((outputs.detach(), after, [parameter.grad.clone() for parameter in core.parameters()]))  # pyright: ignore[reportOptionalMemberAccess]
        (outputs, ours, gradient), (expected, theirs, whole) = results
        assert_same((outputs, wrapped.inner(ours), tuple(gradient)), (expected, theirs, tuple(whole)))


@pytest.mark.parametrize(
    ("kind", "every", "reuse"),
    [*((kind, every, True) for kind in QUICK for every in (1, 3)), ("stack", 1, False), ("full", 3, False)],
)
def test_while_the_episode_is_younger_than_the_window_a_refresh_is_a_fresh_computation(kind, every, reuse):
    plain, wrapped = both(kind, window=8, every=every, reuse=reuse)
    inputs, is_first = problem(24)
    is_first[::8] = True  # where an unroll begins, and in one stream in the middle of it
    is_first[6::8, 1] = True
    state, compared = wrapped.initial_state(STREAMS), 0
    for number, rows in enumerate(unrolls(24), start=1):
        state = advance(wrapped, inputs[rows], state, is_first[rows])
        drift(plain, wrapped)
        state = wrapped.refreshed(state)
        if number % every == 0:
            compared += 1
            episode = slice((rows.stop - 1) // 8 * 8, rows.stop)  # of which stream 1 has begun another since
            assert_same(wrapped.inner(state), fresh(plain, inputs[episode], is_first[episode]))
    assert compared == 6 // every


@pytest.mark.parametrize(("window", "every"), [(4, 1), (8, 1), (8, 2), (10, 3)])
def test_older_than_the_window_is_what_the_anchor_had_and_younger_is_fresh(window: int, every: int):
    plain, wrapped = both("elstm", window=window, every=every, reuse=True)
    inputs, is_first = problem(60, often=0.04)
    state = wrapped.initial_state(STREAMS)
    anchor, anchored_at = plain.initial_state(STREAMS), 0
    for number, rows in enumerate(unrolls(60), start=1):
        state = advance(wrapped, inputs[rows], state, is_first[rows])
        drift(plain, wrapped)
        state = wrapped.refreshed(state)
        if number % every == 0:
            with torch.no_grad():
                assert min(window, rows.stop) <= rows.stop - anchored_at <= max(window, every * UNROLL)
                since = slice(anchored_at, rows.stop)
                expected = plain(inputs[since], anchor, is_first[since])[1]
                if (moved := rows.stop - max(0, window - every * UNROLL)) > anchored_at:
                    between = slice(anchored_at, moved)
                    anchor, anchored_at = plain(inputs[between], anchor, is_first[between])[1], moved
            assert_same(wrapped.inner(state), expected)


def test_without_new_weights_for_long_the_anchor_moves_by_itself_and_the_state_stays_what_it_is():
    plain, wrapped = both("elstm", window=8, every=2)
    inputs, is_first = problem(56)
    ours, theirs = wrapped.initial_state(STREAMS), plain.initial_state(STREAMS)
    for rows in unrolls(56):
        ours = advance(wrapped, inputs[rows], ours, is_first[rows])
        theirs = advance(plain, inputs[rows], theirs, is_first[rows])
        assert all(map(torch.equal, carried.leaves(wrapped.inner(ours)), carried.leaves(theirs)))
    start = ours.sensitivity.anchor
    filled = int(ours.sensitivity.steps[0])
    assert_same(start, fresh(plain, inputs[: 56 - filled], is_first[: 56 - filled]))
    drift(plain, wrapped)
    ours = wrapped.refreshed(ours)
    with torch.no_grad():
        since = slice(56 - filled, 56)
        assert_same(wrapped.inner(ours), plain(inputs[since], start, is_first[since])[1])


@pytest.mark.parametrize("kind", QUICK)
def test_a_stream_that_begins_anew_inside_its_episode_has_no_past_in_a_refresh_either(kind: str):
    plain, wrapped = both(kind, every=1, reuse=True)
    inputs, is_first = problem(20)
    state, anew = wrapped.initial_state(STREAMS), torch.tensor([False, True, False])
    for number, rows in enumerate(unrolls(20)):
        if number == 3:
            state = state.reset(anew)
            is_first[rows.start, 1] = True  # for the oracle alone
        given = is_first[rows].clone()
        given[0, 1] &= number != 3
        if number == 3:
            state.sensitivity.unrolls.fill_(1)
            state = wrapped.refreshed(state)
            assert not any(leaf[1].any() for leaf in carried.leaves(state))
        state = advance(wrapped, inputs[rows], state, given)
        drift(plain, wrapped)
        state = wrapped.refreshed(state)
        if number in (3, 4):  # younger than the window of 8
            expected = fresh(plain, inputs[: rows.stop], is_first[: rows.stop])
            assert_same(wrapped.inner(state).of(anew), expected.of(anew))


def test_an_anchor_or_an_input_that_is_not_finite_counts_and_is_forgotten_with_the_episode():
    plain, wrapped = both("elstm")
    inputs, is_first = problem(16)
    is_first[12, 1] = True
    one = torch.tensor([False, True, False])
    state = wrapped.initial_state(STREAMS)
    for rows in unrolls(12):
        state = advance(wrapped, inputs[rows], state, is_first[rows])
    kept = state.sensitivity
    for leaf in (*carried.leaves(kept.anchor), kept.inputs):
        spoilt = carried.map_leaves(torch.clone, state)
        twin = next(
            other for other, mine in zip(carried.leaves(spoilt), carried.leaves(state), strict=True) if mine is leaf
        )
        twin[1] = float("nan")
        norms = wrapped.stream_norms(spoilt.sensitivity)
        assert norms is not None
        assert norms.isfinite().tolist() == [True, False, True]
        after = wrapped.refreshed(advance(wrapped, inputs[12:], spoilt, is_first[12:]))
        assert_same(wrapped.inner(after).of(one), fresh(plain, inputs, is_first).of(one))


def test_the_norms_are_those_of_the_core_inside():
    plain, wrapped = both("elstm")
    inputs, is_first = problem(8)
    ours = advance(wrapped, inputs[:4], wrapped.initial_state(STREAMS), is_first[:4])
    theirs = advance(plain, inputs[:4], plain.initial_state(STREAMS), is_first[:4])
    assert torch.equal(wrapped.stream_norms(ours.sensitivity), plain.stream_norms(theirs.sensitivity))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", QUICK)
def test_what_it_carries_is_saved_selected_and_gone_on_with_bit_for_bit(kind: str):
    inputs, is_first = problem(32, often=0.1)
    torch.manual_seed(1)
    _, straight = both(kind, every=2, reuse=True)
    state = straight.initial_state(STREAMS)
    for rows in unrolls(20):
        state = straight.refreshed(advance(straight, inputs[rows], state, is_first[rows]))
    torch.manual_seed(1)
    _, resumed = both(kind, every=2, reuse=True)
    saved = carried.map_leaves(torch.clone, state)
    other = carried.load(resumed.initial_state(STREAMS), carried.save(saved))
    for rows in unrolls(32)[5:]:
        torch.manual_seed(rows.start)
        drift(straight, resumed)
        state = straight.refreshed(advance(straight, inputs[rows], state, is_first[rows]))
        other = resumed.refreshed(advance(resumed, inputs[rows], other, is_first[rows]))
        assert all(map(torch.equal, carried.leaves(state), carried.leaves(other)))
    some = torch.tensor([True, False, True])
    for part, whole in zip(carried.leaves(state.of(some)), carried.leaves(state), strict=True):
        assert torch.equal(part, whole[some])


def test_states_of_before_stay_what_they_were_unless_their_memory_was_promised_away():
    _, wrapped = both("elstm", window=4, every=1)
    inputs, is_first = problem(24)
    state = wrapped.initial_state(STREAMS)
    for rows in unrolls(24):
        copy = carried.map_leaves(torch.clone, state)
        after = advance(wrapped, inputs[rows], state, is_first[rows])
        late = carried.map_leaves(torch.clone, after)
        following = wrapped.refreshed(after)
        assert all(map(torch.equal, carried.leaves(state), carried.leaves(copy)))
        assert all(map(torch.equal, carried.leaves(after), carried.leaves(late)))
        state = following


def test_parameters_have_the_names_and_the_memory_of_the_core_inside():
    plain, wrapped = both("elstm", reuse=True)
    assert [name for name, _ in wrapped.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert wrapped.state_dict().keys() == plain.state_dict().keys()
    flat = FlatParameters(wrapped)
    inputs, is_first = problem(4)
    state = advance(wrapped, inputs, wrapped.initial_state(STREAMS), is_first)
    assert flat.gradient.any()
    flat.load(torch.zeros_like(flat.vector))
    state = wrapped.refreshed(state)  # also what runs again has the new weights
    assert not state.cell.any()


def test_after_a_refresh_the_error_is_at_most_half_of_the_stale_one_where_the_window_is_the_memory():
    # A forget bias of 3 keeps a state for about 20 steps: W is as long. The weights walk, 1e-3 of their size after each unroll.
    streams, steps, window = 100, 160, 20
    plain = ELSTM(INPUTS, UNITS, forget_bias=3.0).double()
    inner = ELSTM(INPUTS, UNITS).double()
    inner.load_state_dict(plain.state_dict())
    wrapped = RefreshedCore(inner, window=window, every=1, unroll=UNROLL)
    inputs = torch.randn(steps, streams, INPUTS, dtype=torch.float64)
    is_first = torch.zeros(steps, streams, dtype=torch.bool)
    stale, ours = plain.initial_state(streams), wrapped.initial_state(streams)
    for rows in unrolls(steps):
        with torch.no_grad():
            stale = plain(inputs[rows], stale, is_first[rows])[1]
            ours = wrapped(inputs[rows], ours, is_first[rows])[1]
            for one, other in zip(plain.parameters(), wrapped.parameters(), strict=True):
                one += 1e-3 * one.abs().mean() * torch.randn_like(one)
                other.copy_(one)
        ours = wrapped.refreshed(ours)
    truth = fresh(plain, inputs, is_first).sensitivity.matrices.flatten(1)
    from_zero = fresh(plain, inputs[-window:], is_first[-window:])
    stale_error, error, error_from_zero = (
        float(((found.sensitivity.matrices.flatten(1) - truth).norm(dim=1) / truth.norm(dim=1)).mean())
        for found in (stale, wrapped.inner(ours), from_zero)
    )
    assert stale_error > 1e-3
    assert error <= 0.5 * stale_error
    assert error_from_zero > 10 * stale_error


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="carries no sensitivity has nothing to refresh"):
        RefreshedCore(DiagonalCore(INPUTS, UNITS, rule="tbptt"), window=8, every=1, unroll=4)
    for sizes in ({"window": 3}, {"every": 0}, {"unroll": 0}):
        with pytest.raises(ValueError, match="1 <= unroll <= window and 1 <= every"):
            RefreshedCore(ELSTM(INPUTS, UNITS), **{"window": 8, "every": 1, "unroll": 4, **sizes})
    _, wrapped = both("elstm")
    inputs, is_first = problem(5)
    with pytest.raises(ValueError, match="at most 4 steps"):
        wrapped(inputs, wrapped.initial_state(STREAMS), is_first)
