"""Fixed decays: credit that is exact over whole episodes, and holds nothing of older weights."""

import math

import pytest
import torch

from rtrl_core import Core, CoreState, carried
from rtrl_core.cores import AverageCore, RetentionCore, RetNet, build_core
from rtrl_core.cores.averages import AverageOptions
from rtrl_core.cores.retention import SMALLEST, RetentionOptions

STREAMS, INPUTS, UNITS, HEADS = 3, 4, 6, 2
OPTIONS = RetentionOptions(heads=HEADS, decays=(0.9, 0.5))


def problem(steps: int = 12, first_rate: float = 0.15):
    inputs = torch.randn(steps, STREAMS, INPUTS, dtype=torch.float64)
    is_first = torch.rand(steps, STREAMS) < first_rate
    is_first[0] = True
    return inputs, is_first


def whole_episodes(core: RetentionCore, inputs, is_first) -> torch.Tensor:
    """Outputs by the recurrence as it is written, under autograd."""
    state = torch.zeros(STREAMS, HEADS, UNITS // HEADS, UNITS // HEADS, dtype=torch.float64)
    outputs = []
    for x, first in zip(inputs, is_first, strict=True):
        kept = carried.cleared(state, first) * core.decays[:, None, None]
        heads = []
        for h in range(HEADS):
            key, value, query = (x @ weights[h].t() for weights in (core.keys, core.values, core.queries))
            now = kept[:, h] + key[:, :, None] * value[:, None, :]
            read = torch.einsum("bn,bnm->bm", query, now)
            heads.append((now, read / (read.square().mean(-1, keepdim=True) + SMALLEST).sqrt()))
        state = torch.stack([now for now, _ in heads], 1)
        outputs.append(torch.cat([read for _, read in heads], -1))
    return torch.stack(outputs)


def by_unrolls(
    core: Core, inputs, is_first, lengths, weights=None
) -> tuple[list[torch.Tensor], torch.Tensor, CoreState]:
    core.zero_grad()
    state, outputs, start = core.initial_state(STREAMS), [], 0
    for length in lengths:
        rows = slice(start, start + length)
        given, state = core(inputs[rows], state, is_first[rows])
        if given.requires_grad:
            given.sin().sum().backward()
        outputs.append(given.detach())
        start += length
    return (
        [parameter.grad.clone() for parameter in core.parameters() if parameter.grad is not None],
        torch.cat(outputs),
        state,
    )


@pytest.mark.parametrize("lengths", [(12,), (5, 7), (1,) * 12, (1, 4, 1, 6)], ids=str)
def test_any_segmentation_gives_the_gradient_of_whole_episodes(lengths):
    core = RetentionCore(INPUTS, UNITS, "segment", OPTIONS).double()
    inputs, is_first = problem()
    gradients, outputs, _ = by_unrolls(core, inputs, is_first, lengths)
    core.zero_grad()
    expected = whole_episodes(core, inputs, is_first)
    expected.sin().sum().backward()
    torch.testing.assert_close(outputs, expected.detach(), rtol=1e-10, atol=1e-12)
    for ours, parameter in zip(gradients, core.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-12)


def test_truncated_it_forgets_the_credit_and_not_the_state():
    exact, truncated = (RetentionCore(INPUTS, UNITS, rule, OPTIONS).double() for rule in ("segment", "tbptt"))
    truncated.load_state_dict(exact.state_dict())
    inputs, is_first = problem(first_rate=0.0)
    ours, outputs, state = by_unrolls(truncated, inputs, is_first, (4, 4, 4))
    theirs, expected, _ = by_unrolls(exact, inputs, is_first, (4, 4, 4))
    torch.testing.assert_close(outputs, expected)
    assert state.sensitivity is None
    assert not torch.allclose(ours[1], theirs[1], rtol=1e-3)
    whole = [by_unrolls(core, inputs, is_first, (12,))[0] for core in (exact, truncated)]
    for one, other in zip(*whole, strict=True):
        torch.testing.assert_close(one, other)


def test_after_a_hundred_updates_state_and_credit_are_as_if_the_weights_had_always_been_these():
    core = RetentionCore(INPUTS, UNITS, "segment", OPTIONS).double()
    inputs, is_first = problem(404, first_rate=0.002)
    state = core.initial_state(STREAMS)
    for update in range(100):
        rows = slice(4 * update, 4 * update + 4)
        _, state = core(inputs[rows], state, is_first[rows])
        with torch.no_grad():
            for parameter in core.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        state = core.refreshed(state)
    fresh = core.initial_state(STREAMS)
    with torch.no_grad():
        _, fresh = core(inputs[:400], fresh, is_first[:400])
    for ours, theirs in zip(carried.leaves(state), carried.leaves(fresh), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    contributions = []
    for begun in (state, fresh):
        core.zero_grad()
        outputs, _ = core(inputs[400:], begun, is_first[400:])
        outputs.sin().sum().backward()
        contributions.append(
            torch.cat([parameter.grad.flatten() for parameter in core.parameters() if parameter.grad is not None])
        )
    assert float((contributions[0] - contributions[1]).norm() / contributions[1].norm()) < 1e-9


@pytest.mark.parametrize(
    "core", [RetentionCore(INPUTS, UNITS, "segment", OPTIONS), AverageCore(INPUTS, 1)], ids=["retention", "averages"]
)
def test_an_episode_that_is_over_leaves_nothing_behind_whatever_it_held(core):
    core = core.double()
    inputs, is_first = problem(8, first_rate=0.0)
    is_first[3, 1] = True
    results = []
    for poison in (0.0, math.nan):
        state = core.initial_state(STREAMS)
        given = inputs.clone()
        given[:3, 1] = poison
        outputs, state = core(given, state, is_first)
        results.append([outputs[3:].detach(), *carried.leaves(state)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_averages_are_averages():
    core = AverageCore(INPUTS, 99, options=AverageOptions((0.0, 0.75))).double()
    inputs, is_first = problem(6, first_rate=0.0)
    outputs, state = core(inputs, core.initial_state(STREAMS), is_first)
    assert core.output_size == 3 * INPUTS
    torch.testing.assert_close(outputs[..., :INPUTS], inputs)
    torch.testing.assert_close(outputs[..., INPUTS : 2 * INPUTS], inputs)
    expected = sum(0.25 * 0.75 ** (5 - t) * inputs[t] for t in range(6))
    torch.testing.assert_close(outputs[-1, :, 2 * INPUTS :], expected)
    acted, cell = core.step(inputs[0], core.initial_state(STREAMS).cell, is_first[0])
    torch.testing.assert_close(acted, outputs[0])
    assert cell.shape == state.cell.shape
    assert not list(core.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RetentionOptions(decays=(-0.5, 0.5, 0.5, 0.5)), "decays must be at least 0 and below 1, got -0.5"),
        (lambda: AverageOptions((1.0,)), "decays must be at least 0 and below 1, got 1.0"),
        (lambda: AverageOptions(()), "decays must be at least one number, got none"),
        (lambda: RetentionOptions(heads=2, decays=(0.5,)), "one decay for each, got 2 heads and 1 decays"),
        (lambda: RetNet(3, 6), "num_units a multiple of 4 heads, got 3 and 6"),
        (
            lambda: build_core("retnet", 3, 8, "snap1"),
            "rule snap1 is not for fixed decays, whose credit is exact as it is: use rule=segment",
        ),
    ],
)
def test_what_does_not_fit_says_so(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
