"""Targets of recurrent Q-learning (R2D2, Kapturowski et al. 2019): n-step double Q-learning, of rescaled values, and their priorities.

All arguments are time-major ``[T, B]``; row ``t`` is the transition that action ``a_t`` caused.
"""

import torch

from rtrl_core.arguments import FLOATING, expect
from rtrl_core.shapes import Bool, Float, Tensor

EPSILON = 1e-3
"""Of the rescaling, in R2D2."""


def rescaled(values: Float[Tensor, "*any"], epsilon: float = EPSILON) -> Float[Tensor, "*any"]:
    """``h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x`` (Pohlen et al. 2018), without the difference of two numbers near 1."""
    return values / ((values.abs() + 1).sqrt() + 1) + epsilon * values


def unscaled(values: Float[Tensor, "*any"], epsilon: float = EPSILON) -> Float[Tensor, "*any"]:
    """The inverse of ``rescaled``.

    With ``s = sqrt(1 + 4 epsilon (|x| + 1 + epsilon))`` it is ``sign(x) ((s - 1)^2 / (2 epsilon)^2 - 1)``, which is
    ``d (|d| + 2)`` for ``d = 2 x / (s + 1 + 2 epsilon)``: as exact near 0 as elsewhere.
    """
    root = (1 + 4 * epsilon * (values.abs() + 1 + epsilon)).sqrt()
    offset = 2 * values / (root + 1 + 2 * epsilon)
    return offset * (offset.abs() + 2)


@torch.no_grad()
def n_step_targets(
    *,
    rewards: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    terminated: Bool[Tensor, "T B"],
    truncated: Bool[Tensor, "T B"],
    valid: Bool[Tensor, "T B"],
    discount: float,
    steps: int,
) -> Float[Tensor, "T B"]:
    """``y_t = sum_{k<m} gamma^k r_{t+k} + gamma^m V'_{t+m}``, with ``m`` the first of: ``steps``, the end of the episode, the end of the
    rows, a row that is no transition.

    Nothing follows a termination: nothing is added to its reward. A cut-off episode is bootstrapped from its final observation. The last
    rows look less far ahead than the others.

    Args:
        rewards: of the transitions, as the loss sees them.
        next_values: ``V'_{t+1}`` in units of the rewards: of what followed, by the target network at the action that the online network
            would take; of the final observation where the episode was truncated, ignored where it terminated.
        valid: false where row ``t`` is no transition; its target means nothing.
        steps: n.

    Raises:
        TypeError, ValueError: for an argument of another dtype, shape or device than ``next_values`` asks for, or fewer than 1 step.
    """
    shape, device = tuple(next_values.shape), next_values.device
    expect("next_values", next_values, "T B", (None, None), FLOATING, device)
    expect("rewards", rewards, "T B", shape, FLOATING, device)
    for name, tensor in (("terminated", terminated), ("truncated", truncated), ("valid", valid)):
        expect(name, tensor, "T B", shape, torch.bool, device)
    if steps < 1:
        raise ValueError(f"a return has at least 1 step, got {steps}")
    nothing = torch.zeros_like(next_values)
    one_ahead = torch.where(terminated, nothing, next_values)
    goes_on = valid & ~terminated & ~truncated
    goes_on[:-1] &= valid[1:]
    goes_on[-1] = False
    targets = rewards + discount * one_ahead
    for _ in range(steps - 1):  # each time every row looks one step further
        following = torch.cat([targets[1:], nothing[:1]])
        targets = rewards + discount * torch.where(goes_on, following, one_ahead)
    return targets


def priorities(
    errors: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"], share_of_maximum: float = 0.9
) -> Float[Tensor, " B"]:
    """``eta max_t |delta_t| + (1 - eta) mean_t |delta_t|`` of each sequence, over its transitions; 0 for one that has none."""
    sizes = torch.where(valid, errors.abs(), torch.zeros_like(errors))
    mean = sizes.sum(0) / valid.sum(0).clamp(min=1)
    return share_of_maximum * sizes.amax(0) + (1 - share_of_maximum) * mean
