"""Targets of recurrent Q-learning against their definitions, a step at a time."""

import pytest
import torch

from rtrl_core.q_values import n_step_targets, priorities, rescaled, unscaled


def test_rescaling_and_its_inverse_over_twelve_decades():
    values = torch.logspace(-6, 6, 400, dtype=torch.float64)
    values = torch.cat([-values, values, torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(unscaled(rescaled(values)), values, rtol=1e-9, atol=0)
    torch.testing.assert_close(rescaled(unscaled(values)), values, rtol=1e-9, atol=0)
    published = values.sign() * ((values.abs() + 1).sqrt() - 1) + 1e-3 * values
    torch.testing.assert_close(rescaled(values), published, rtol=1e-9, atol=1e-12)
    single = values.float()
    torch.testing.assert_close(unscaled(rescaled(single)), single, rtol=2e-5, atol=0)


def slow(rewards, next_values, terminated, truncated, valid, discount, steps):
    length, streams = rewards.shape
    targets = torch.zeros_like(rewards)
    for b in range(streams):
        for t in range(length):
            total, weight = 0.0, 1.0
            for k in range(steps):
                row = t + k
                total += weight * float(rewards[row, b])
                weight *= discount
                if terminated[row, b]:
                    break
                over = truncated[row, b] or row + 1 == length or k + 1 == steps or not valid[row + 1, b]
                if over:
                    total += weight * float(next_values[row, b])
                    break
            targets[t, b] = total
    return targets


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_targets_are_those_of_a_loop_with_ends_inside_the_window(steps: int):
    generator = torch.Generator().manual_seed(steps)
    shape = (23, 7)
    rewards, next_values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    terminated, truncated, invalid = (torch.rand(shape, generator=generator) < 0.1 for _ in range(3))
    valid = ~invalid
    found = n_step_targets(
        rewards=rewards,
        next_values=next_values,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        discount=0.97,
        steps=steps,
    )
    expected = slow(rewards, next_values, terminated, truncated, valid, 0.97, steps)
    torch.testing.assert_close(found[valid], expected[valid], rtol=1e-12, atol=1e-12)


def test_what_a_terminated_row_says_of_its_successor_is_never_read():
    next_values = torch.full((3, 1), torch.nan)
    flags = torch.ones(3, 1, dtype=torch.bool)
    found = n_step_targets(
        rewards=torch.ones(3, 1),
        next_values=next_values,
        terminated=flags,
        truncated=torch.zeros_like(flags),
        valid=flags,
        discount=0.9,
        steps=3,
    )
    assert torch.equal(found, torch.ones(3, 1))


def test_a_return_has_a_step():
    flags = torch.ones(2, 1, dtype=torch.bool)
    rows = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        n_step_targets(
            rewards=rows, next_values=rows, terminated=flags, truncated=flags, valid=flags, discount=1.0, steps=0
        )


def test_priorities_are_of_transitions_alone():
    errors = torch.tensor([[1.0, -3.0, torch.nan], [2.0, 100.0, 1.0]])
    valid = torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(priorities(errors, valid), torch.tensor([0.9 * 2 + 0.1 * 1.5, 3.0, 0.0]))
