"""The actor-critic loss, summed over time and streams (never averaged), so that contributions add up to one large batch."""

from typing import NamedTuple

import torch

from rtrl_core.arguments import FLOATING, expect
from rtrl_core.carried import along
from rtrl_core.policies import ActionDistribution
from rtrl_core.returns import VTrace
from rtrl_core.shapes import Bool, Float, Shaped, Tensor


class Losses(NamedTuple):
    """Scalars, each a sum over the valid steps of the unroll."""

    total: Float[Tensor, ""]
    policy: Float[Tensor, ""]
    """``-sum log pi(a_t) A_t``."""
    value: Float[Tensor, ""]
    """``1/2 sum (v_t - V_t)^2``."""
    entropy: Float[Tensor, ""]
    """``sum_t H(pi_t)``, positive."""


def actor_critic_losses(
    *,
    distribution: ActionDistribution,
    parameters: Float[Tensor, "T B A"],
    values: Float[Tensor, "T B"],
    actions: Shaped[Tensor, "T B ..."],
    returns: VTrace,
    valid: Bool[Tensor, "T B"],
    entropy_cost: float,
    baseline_cost: float,
) -> Losses:
    """``policy + baseline_cost * value - entropy_cost * entropy``, the loss of A3C and IMPALA.

    Rows that are no transitions are left out by selection: whatever they hold, NaN too, reaches neither the loss nor a gradient.

    Raises:
        TypeError, ValueError: for an argument of another dtype, shape or device than ``values`` asks for.
    """
    shape, device = tuple(values.shape), values.device
    expect("values", values, "T B", (None, None), FLOATING, device)
    expect("parameters", parameters, "T B A", (*shape, distribution.num_parameters), FLOATING, device)
    expect("actions", actions, "T B ...", shape, None, device)
    expect("returns.targets", returns.targets, "T B", shape, FLOATING, device)
    expect("returns.advantages", returns.advantages, "T B", shape, FLOATING, device)
    expect("valid", valid, "T B", shape, torch.bool, device)
    nothing = values.new_zeros(())

    def selected(rows: Tensor) -> Tensor:
        return torch.where(along(valid, rows), rows, nothing.to(rows.dtype))

    # Before the functions and not after: a gradient of zero times a derivative of NaN is NaN.
    parameters, values, actions = selected(parameters), selected(values), selected(actions)
    log_policy, entropies = distribution.log_prob(parameters, actions), distribution.entropy(parameters)
    policy = -(log_policy * selected(returns.advantages)).sum()
    value = 0.5 * (selected(returns.targets) - values).square().sum()
    entropy = selected(entropies).sum()
    return Losses(policy + baseline_cost * value - entropy_cost * entropy, policy, value, entropy)


def within_reach(
    advantages: Float[Tensor, "T B"], log_ratios: Float[Tensor, "T B"], clip_ratio: float
) -> Float[Tensor, "T B"]:
    """Advantages without those that PPO's clipped objective has no gradient for (Schulman et al. 2017, equation 7): of actions that are
    already more likely than when they were taken by a factor above ``1 + clip_ratio`` and should become more so, or less likely by one
    below ``1 - clip_ratio`` and less so."""
    ratios = log_ratios.exp()
    beyond = ((ratios > 1 + clip_ratio) & (advantages > 0)) | ((ratios < 1 - clip_ratio) & (advantages < 0))
    return advantages.masked_fill(beyond, 0)


def clip_rewards(rewards: Float[Tensor, "*batch"], how: str) -> Float[Tensor, "*batch"]:
    """What the loss and the core see of a raw reward.

    ``none``: itself. ``abs_one``: clamped to [-1, 1] (the paper). ``asymmetric``: ``5 tanh(r/5)``, times 0.3 if negative
    (IMPALA's optimistic squash for DMLab-30).

    Raises:
        ValueError: for another ``how``.
    """
    if how == "none":
        return rewards
    if how == "abs_one":
        return rewards.clamp(-1, 1)
    if how == "asymmetric":
        squashed = 5 * torch.tanh(rewards / 5)
        return torch.where(rewards < 0, 0.3 * squashed, squashed)
    raise ValueError(f"unknown reward clipping {how!r}: expected none, abs_one or asymmetric")
