"""V-trace against an oracle that looks like the formula of Espeholt et al. (2018), section 4.1."""

import functools
import math

import pytest
import torch

from rtrl_core import vtrace


def slow_vtrace(
    log_ratios, rewards, values, next_values, terminated, truncated, valid, discount, rho_clip, c_clip, trace_decay
):
    """``v_s = V_s + sum_t gamma^{t-s} (prod_{i<t} c_i) delta_t``, one stream at a time, stopping where the episode does and before a
    row that is no transition."""
    steps, streams = rewards.shape
    targets, advantages = torch.zeros_like(rewards), torch.zeros_like(rewards)

    def delta(t: int, b: int) -> float:
        rho = min(rho_clip, math.exp(log_ratios[t, b]))
        after = 0.0 if terminated[t, b] else discount * float(next_values[t, b])
        return rho * (float(rewards[t, b]) + after - float(values[t, b]))

    def target(s: int, b: int) -> float:
        total, weight = float(values[s, b]), 1.0
        for t in range(s, steps):
            if not valid[t, b]:
                break
            total += weight * delta(t, b)
            if terminated[t, b] or truncated[t, b]:
                break
            weight *= discount * trace_decay * min(c_clip, math.exp(log_ratios[t, b]))
        return total

    for b in range(streams):
        for s in range(steps):
            targets[s, b] = target(s, b)
            rho = min(rho_clip, math.exp(log_ratios[s, b]))
            if not valid[s, b]:
                continue
            if terminated[s, b]:
                after = 0.0
            elif truncated[s, b] or s == steps - 1:
                after = float(next_values[s, b])
            else:
                after = target(s + 1, b)
            advantages[s, b] = rho * (float(rewards[s, b]) + discount * after - float(values[s, b]))
    return targets, advantages


def random_unroll(steps: int = 9, streams: int = 6):
    values = torch.randn(steps, streams, dtype=torch.float64)
    terminated = torch.rand(steps, streams) < 0.2
    truncated = (torch.rand(steps, streams) < 0.2) & ~terminated
    following = torch.cat([values[1:], torch.randn(1, streams, dtype=torch.float64)])
    next_values = torch.where(truncated, torch.randn_like(values), following)
    valid = torch.rand(steps, streams) < 0.8
    return torch.randn(steps, streams, dtype=torch.float64), values, next_values, terminated, truncated, valid


@pytest.mark.parametrize(("rho_clip", "c_clip"), [(1.0, 1.0), (2.0, 1.5), (0.5, 0.3), (1e9, 1e9)])
@pytest.mark.parametrize("trace_decay", [1.0, 0.9])
def test_it_equals_the_formula_on_both_sides_of_the_clips(rho_clip, c_clip, trace_decay):
    rewards, values, next_values, terminated, truncated, valid = random_unroll()
    log_ratios = torch.randn_like(values)
    assert (log_ratios.exp() > rho_clip).any() or rho_clip > 1e8
    result = vtrace(
        log_ratios=log_ratios,
        rewards=rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        discount=0.97,
        rho_clip=rho_clip,
        c_clip=c_clip,
        trace_decay=trace_decay,
    )
    targets, advantages = slow_vtrace(
        log_ratios, rewards, values, next_values, terminated, truncated, valid, 0.97, rho_clip, c_clip, trace_decay
    )
    torch.testing.assert_close(result.targets, targets, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.advantages, advantages, rtol=1e-10, atol=1e-10)


def test_on_policy_it_is_the_n_step_return():
    rewards, values, next_values, *_ = random_unroll()
    no = torch.zeros_like(values, dtype=torch.bool)
    next_values = torch.cat([values[1:], next_values[-1:]])
    result = vtrace(
        log_ratios=torch.zeros_like(values),
        rewards=rewards,
        values=values,
        next_values=next_values,
        terminated=no,
        truncated=no,
        valid=~no,
        discount=0.9,
    )
    expected = next_values[-1]
    for t in reversed(range(len(rewards))):
        expected = rewards[t] + 0.9 * expected
        torch.testing.assert_close(result.targets[t], expected)


def one_step(terminated: bool, truncated: bool) -> float:
    result = vtrace(
        log_ratios=torch.zeros(1, 1),
        rewards=torch.tensor([[2.0]]),
        values=torch.tensor([[0.5]]),
        next_values=torch.tensor([[10.0]]),
        terminated=torch.tensor([[terminated]]),
        truncated=torch.tensor([[truncated]]),
        valid=torch.ones(1, 1, dtype=torch.bool),
        discount=0.5,
    )
    return float(result.targets)


def test_truncation_bootstraps_and_termination_does_not():
    assert one_step(terminated=False, truncated=True) == 2.0 + 0.5 * 10.0
    assert one_step(terminated=True, truncated=False) == 2.0


def test_a_value_that_is_not_a_number_behind_a_termination_does_no_harm():
    result = vtrace(
        log_ratios=torch.zeros(1, 1),
        rewards=torch.ones(1, 1),
        values=torch.zeros(1, 1),
        next_values=torch.full((1, 1), math.nan),
        terminated=torch.ones(1, 1, dtype=torch.bool),
        truncated=torch.zeros(1, 1, dtype=torch.bool),
        valid=torch.ones(1, 1, dtype=torch.bool),
        discount=0.9,
    )
    assert float(result.targets) == 1.0


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers).unsqueeze(1)


@pytest.mark.parametrize("lost", [False, True], ids=["action ignored", "engine lost"])
def test_the_step_before_a_row_that_is_no_transition_bootstraps_from_its_value(lost: bool):
    result = vtrace(
        log_ratios=column(0.0, 0.0, 0.0),
        rewards=column(1.0, 0.0, 5.0),
        values=column(0.0, 10.0, 3.0),
        next_values=column(
            10.0, 10.0 if lost else 3.0, 4.0
        ),  # a lost engine shows its last observation as the final one
        terminated=column(0, 0, 0).bool(),
        truncated=column(0, int(lost), 0).bool(),
        valid=column(1, 0, 1).bool(),
        discount=0.9,
    )
    torch.testing.assert_close(result.targets, column(1 + 0.9 * 10, 10.0, 5 + 0.9 * 4))
    torch.testing.assert_close(result.advantages, column(1 + 0.9 * 10 - 0, 0.0, 5 + 0.9 * 4 - 3))


@pytest.mark.parametrize("end", ["terminated", "truncated", "lost"])
def test_what_is_not_a_number_in_one_episode_reaches_no_target_of_another(end: str):
    """Rows 0 and 1 are an episode that ends, row 2 is the next one; either is poisoned in turn."""
    for poisoned in ((2,), (0, 1)):
        numbers = {name: column(1.0, 2.0, 3.0) for name in ("log_ratios", "rewards", "values", "next_values")}
        clean = {name: tensor.clone() for name, tensor in numbers.items()}
        for tensor in numbers.values():
            tensor[list(poisoned)] = math.nan
        flags = {
            "terminated": column(0, int(end == "terminated"), 0).bool(),
            "truncated": column(0, int(end != "terminated"), 0).bool(),
            "valid": column(1, int(end != "lost"), 1).bool(),
        }
        healthy = [t for t in range(3) if t not in poisoned]
        result, expected = (functools.partial(vtrace, discount=0.9, **flags)(**rows) for rows in (numbers, clean))
        assert torch.equal(result.targets[healthy], expected.targets[healthy])
        assert torch.equal(result.advantages[healthy], expected.advantages[healthy])
