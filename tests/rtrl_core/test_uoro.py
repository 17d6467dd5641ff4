"""UORO is right in the mean over its noise, and the noise is drawn from what a stream has seen: independent, and the same again."""

import pytest
import torch
from toy_parts import DenseCell, PlainRNN

from rtrl_core import GRUCell, LSTMCell, UnitwiseCell, UnrolledCore, carried
from rtrl_core.rules import UORORule, noise, uoro
from rtrl_core.rules.end_of_unroll import flat, parameters_of

INPUTS, UNITS, SEEDS = 3, 4, 20_000


def problem(steps: int, streams: int):
    inputs = torch.randn(steps, streams, INPUTS, dtype=torch.float64)
    is_first = torch.zeros(steps, streams, dtype=torch.bool)
    is_first[0] = True
    return inputs, is_first


def gradient_of_each_seed(cell, inputs, is_first, length: int) -> torch.Tensor:
    """Of ``sum sin(outputs)``, ``[SEEDS, |theta|]``: streams that see the same and differ in their noise alone."""
    rule = UORORule()
    sensitivity, state = rule.initial(cell, SEEDS), cell.zeros(1)
    parameters, total = list(cell.parameters()), torch.zeros((), dtype=torch.float64)
    for x, first in zip(inputs.split(length), is_first.split(length), strict=True):
        start = carried.map_leaves(lambda leaf: leaf.detach().requires_grad_(), state)
        now, outputs = start, []
        for x_t, first_t in zip(x, first, strict=True):
            now = cell(x_t, carried.cleared(now, first_t))
            outputs.append(cell.output(now))
        leaves = list(carried.leaves(start))
        wanted = torch.autograd.grad(torch.stack(outputs).sin().sum(), [*leaves, *parameters], materialize_grads=True)
        adjoint = torch.cat(wanted[: len(leaves)], -1)
        inside = torch.cat([gradient.flatten() for gradient in wanted[len(leaves) :]])
        total = total + inside + (sensitivity.alpha * adjoint).sum(1, keepdim=True) * sensitivity.beta
        seeds = carried.map_leaves(lambda leaf: leaf.detach().expand(SEEDS, -1).contiguous(), state)
        sensitivity = rule.advance(
            cell, x.expand(-1, SEEDS, -1).contiguous(), seeds, first.expand(-1, SEEDS), sensitivity
        )
        state = now
    return total


@pytest.mark.seconds
@pytest.mark.parametrize("kind", [LSTMCell, pytest.param(DenseCell, marks=pytest.mark.soak)])
def test_its_mean_over_20_000_seeds_is_the_gradient_of_the_whole_episode(kind):
    cell, (inputs, is_first) = kind(INPUTS, UNITS).double(), problem(14, 1)
    core = UnrolledCore(cell, "tbptt")
    core(inputs, core.initial_state(1), is_first)[0].sin().sum().backward()
    exact = torch.cat([parameter.grad.flatten() for parameter in cell.parameters() if parameter.grad is not None])
    spread = {}
    for length in (1, 7):
        found = gradient_of_each_seed(cell, inputs, is_first, length)
        deviation = (found.mean(0) - exact) / (found.std(0) / SEEDS**0.5).clamp(min=1e-12)
        assert deviation.abs().max() < 4
        spread[length] = float(found.var(0).sum().sqrt() / exact.norm())
    assert 0 < spread[7] < 0.4 * spread[1]


def test_streams_that_see_the_same_draw_different_signs_and_the_same_call_draws_the_same():
    cell, (inputs, is_first) = LSTMCell(INPUTS, UNITS).double(), problem(3, 2)
    inputs[:, 1] = inputs[:, 0]
    rule = UORORule()
    ours, again = (rule.advance(cell, inputs, cell.zeros(2), is_first, rule.initial(cell, 2)) for _ in range(2))
    for one, other in zip(ours, again, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(ours.alpha[0].sign(), ours.alpha[1].sign())


def test_whatever_differs_gives_other_signs():
    cell, (inputs, is_first) = LSTMCell(INPUTS, 32), problem(3, 1)
    inputs = inputs.float()
    start = UORORule().initial(cell, 1)

    def signs(seed=0, inputs=inputs, state=None, sensitivity=start) -> torch.Tensor:
        rule, state = UORORule(seed=seed), cell.zeros(1) if state is None else state
        # Of a stream that begins anew the old product is gone: alpha is the signs, times a number.
        return rule.advance(cell, inputs, state, is_first, sensitivity).alpha.sign()

    drawn = [signs(), signs(seed=1), signs(sensitivity=start._replace(digest=start.digest + 1))]
    nearly = inputs.clone()
    nearly[2, 0, 1] = torch.nextafter(nearly[2, 0, 1], torch.tensor(9.0))
    drawn.append(signs(inputs=nearly))
    drawn.append(signs(inputs=torch.flip(inputs, [0])))
    drawn.append(signs(state=carried.map_leaves(lambda leaf: leaf + 1e-20, cell.zeros(1))))
    with torch.no_grad():
        next(cell.parameters())[0, 0, 0] += 1e-6
    drawn.append(signs())
    for number, one in enumerate(drawn):
        for other in drawn[:number]:
            assert 10 < (one != other).sum() < 54  # of 64: five standard deviations about the half


def test_unrolls_and_episodes_that_look_the_same_draw_different_signs():
    cell = PlainRNN(INPUTS, 32)
    with torch.no_grad():
        cell.matrices[0].zero_()  # the state stands still at zero
    inputs, rule = torch.ones(2, 1, INPUTS), UORORule()
    goes_on = torch.zeros(2, 1, dtype=torch.bool)
    sensitivity, digests = rule.initial(cell, 1), set()
    for _ in range(5):
        sensitivity = rule.advance(cell, inputs, cell.zeros(1), goes_on, sensitivity)
        digests.add(int(sensitivity.digest))
    assert len(digests) == 5
    # Episodes that begin with an unroll carry nothing over: the state that the last one left is what tells them apart.
    begins = goes_on.clone()
    begins[0] = True
    for left in (0.0, 0.25, -0.25):
        before = torch.full((1, 32), left)
        digests.add(int(rule.advance(cell, inputs, before, begins, rule.initial(cell, 1)).digest))
    assert len(digests) == 8


def test_signs_are_balanced_and_independent():
    digests = noise.digests(torch.zeros(4000, dtype=torch.int64), 0, [torch.zeros(4000, 2)], [torch.zeros(3)])
    assert len(set(digests.tolist())) == 4000
    signs = noise.signs(digests, 16, torch.float64)
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert signs.mean().abs() < 4 / (4000 * 16) ** 0.5
    between = signs.t() @ signs / 4000 - torch.eye(16)  # places, over streams
    assert between.abs().max() < 5 / 4000**0.5
    neighbours = (signs[1:] * signs[:-1]).mean(0)  # streams, over neighbouring rows
    assert neighbours.abs().max() < 5 / 4000**0.5


def test_splitmix64_gives_its_published_numbers():
    """The first of the sequence that starts from 1234567."""
    state = torch.tensor([1234567]) + noise._GOLDEN * torch.arange(1, 4)
    assert [number % 2**64 for number in noise.mixed(state).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("kind", [LSTMCell, DenseCell])
def test_it_goes_on_from_what_was_saved_bit_for_bit(kind):
    core, (inputs, is_first) = UnrolledCore(kind(INPUTS, UNITS), "uoro"), problem(12, 3)
    inputs, is_first = inputs.float(), is_first | (torch.rand(12, 3) < 0.1)
    straight = state = core.initial_state(3)
    assert not any(leaf.any() for leaf in carried.leaves(straight))
    for x, first in zip(inputs.split(2), is_first.split(2), strict=True):
        _, straight = core(x, straight, first)
        state = carried.load(core.initial_state(3), carried.save(state))
        _, state = core(x, state, first)
    for ours, theirs in zip(carried.leaves(straight), carried.leaves(state), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell, PlainRNN])
def test_through_the_gates_and_through_the_parameters_is_the_same(kind: type[UnitwiseCell]):
    cell, (inputs, is_first) = kind(INPUTS, UNITS).double(), problem(6, 3)
    is_first[3, 1] = True
    state = carried.map_leaves(torch.randn_like, cell.zeros(3))
    nu = torch.randn(3, flat(state).shape[1], dtype=torch.float64)
    through_gates = uoro._pulled_through_gates(cell, inputs, state, is_first, nu)
    through_parameters = uoro._pulled(cell, parameters_of(cell), inputs, state, is_first, nu)
    torch.testing.assert_close(through_gates, through_parameters, rtol=1e-10, atol=1e-13)


def test_nothing_to_carry_is_carried_without_a_division_by_zero():
    cell = PlainRNN(INPUTS, UNITS)
    with torch.no_grad():
        cell.matrices[0].zero_()
        cell.matrices[0][..., -1] = 1e9  # tanh is flat there: no parameter changes anything
    core, (inputs, is_first) = UnrolledCore(cell, "uoro"), problem(4, 2)
    state = core.initial_state(2)
    for x, first in zip(inputs.float().split(2), is_first.split(2), strict=True):
        _, state = core(x, state, first)
    assert state.finite_streams().all()
    assert not state.sensitivity.beta.any()
