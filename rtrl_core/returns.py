"""V-trace targets (Espeholt et al. 2018) with truncation told apart from termination; on-policy they are n-step returns.

All arguments are time-major ``[T, B]``; row ``t`` is the transition that action ``a_t`` caused.
"""

from typing import NamedTuple

import torch

from rtrl_core.arguments import FLOATING, expect
from rtrl_core.shapes import Bool, Float, Tensor


class VTrace(NamedTuple):
    targets: Float[Tensor, "T B"]
    """``v_t``: what the value of step ``t`` is regressed on."""
    advantages: Float[Tensor, "T B"]
    """``rho_t (r_t + gamma v_{t+1} - V_t)``: what multiplies ``grad log pi(a_t)``."""


@torch.no_grad()
def vtrace(
    *,
    log_ratios: Float[Tensor, "T B"],
    rewards: Float[Tensor, "T B"],
    values: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    terminated: Bool[Tensor, "T B"],
    truncated: Bool[Tensor, "T B"],
    valid: Bool[Tensor, "T B"],
    discount: float,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    trace_decay: float = 1.0,
) -> VTrace:
    """Targets and advantages of an unroll.

        delta_t = rho_t (r_t + gamma V'_{t+1} - V_t)
        v_t     = V_t + delta_t + gamma c_t (v_{t+1} - V_{t+1})          the last term only inside an episode
        v_t     = V_t                                                    where row t is no transition

    A row that is no transition (its action was ignored: a step spent on a reset, an engine that was lost) has neither reward
    nor successor. It says nothing about ``V_t`` and cuts the trace: the step before, if its episode had not ended, bootstraps
    from ``V_t``, as if the unroll ended there. What such a row holds beside ``V_t``, its own flags included, is never read.
    Nothing crosses the end of an episode: where one holds NaN, the targets of its neighbours are finite.

    Args:
        log_ratios: ``log pi(a_t) - log mu(a_t)``; zero on-policy.
        rewards: of the transition, as the loss sees them (clipped).
        values: ``V(o_t)``.
        next_values: ``V'_{t+1}``, the value of what followed: ``V(o_{t+1})`` inside an episode, that of the final observation
            where the episode was truncated; ignored where it terminated.
        terminated: the transition ended the episode for good: nothing is added to its reward.
        truncated: the transition was the last of a cut-off episode: ``next_values`` is added, later steps are not.
        valid: false where row ``t`` is no transition; its advantage is zero.
        discount: gamma.
        rho_clip, c_clip: the clips ``rho-bar >= c-bar``. ``trace_decay``: lambda.

    Raises:
        TypeError, ValueError: for an argument of another dtype, shape or device than ``values`` asks for.
    """
    _check(log_ratios, rewards, values, next_values, terminated, truncated, valid)
    rho = log_ratios.exp()
    clipped_rho = rho.clamp(max=rho_clip)
    nothing = torch.zeros_like(values)
    goes_on = valid & ~terminated & ~truncated
    one_step = rewards + torch.where(terminated, nothing, discount * next_values) - values
    delta = torch.where(valid, clipped_rho * one_step, nothing)
    carry = discount * trace_decay * rho.clamp(max=c_clip)

    corrections = torch.empty_like(values)
    correction = nothing[0]
    for t in range(values.shape[0] - 1, -1, -1):
        correction = delta[t] + torch.where(goes_on[t], carry[t] * correction, nothing[0])
        corrections[t] = correction
    targets = values + corrections

    # Inside an episode the advantage looks ahead to v_{t+1}, not V_{t+1} (IMPALA, ablation E.3).
    after = torch.cat([corrections[1:], nothing[:1]])
    advantages = delta + torch.where(goes_on, clipped_rho * discount * after, nothing)
    return VTrace(targets, advantages)


def _check(
    log_ratios: Tensor,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
) -> None:
    shape, device = tuple(values.shape), values.device
    expect("values", values, "T B", (None, None), FLOATING, device)
    for name, tensor in (("log_ratios", log_ratios), ("rewards", rewards), ("next_values", next_values)):
        expect(name, tensor, "T B", shape, FLOATING, device)
    for name, tensor in (("terminated", terminated), ("truncated", truncated), ("valid", valid)):
        expect(name, tensor, "T B", shape, torch.bool, device)
