"""From an unroll to the gradient of its loss, wherever that is computed: core and heads, the core's inputs, and through them the stem.

A stream whose numbers have run away would spoil the sum of all: it is left out of it, and named.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch

from actors.unroll import Unroll
from conf.schema import LossConfig
from rtrl_core import (
    CoreState,
    FlatParameters,
    Losses,
    PolicyNetwork,
    PolicyOutput,
    VTrace,
    actor_critic_losses,
    vtrace,
    within_reach,
)
from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import numbers


@runtime_checkable
class Differentiable(Protocol):
    """The stem that an unroll's inputs came through, or what stands for it."""

    def backward(self, gradient: Float[Tensor, "T B D"], /) -> None: ...


class UnrollGradient(NamedTuple):
    """What an unroll is worth. The gradient itself is in ``FlatParameters.gradient``."""

    losses: Losses
    target_sum: Float[Tensor, ""]
    """Of the value targets at the steps that the losses count, and of their squares."""
    target_square_sum: Float[Tensor, ""]
    inputs: Float[Tensor, "T B D"]
    """Gradient by the core's inputs; zero in the streams that were left out."""
    after: CoreState
    """State and sensitivity at the end of the unroll, of all streams."""
    left_out: Bool[Tensor, " B"]
    """Streams that have no part in losses and gradient, because with them the sum would not be finite."""


class Differentiation:
    """Of the loss of unrolls, by core, heads and the core's inputs.

    Args:
        parameters: of ``network``, with the weights that it has; their gradient is overwritten by each.
    """

    def __init__(self, network: PolicyNetwork, parameters: FlatParameters, loss: LossConfig) -> None:
        self.network, self.parameters, self.loss = network, parameters, loss

    def whole(self, unroll: Unroll) -> UnrollGradient:
        """Of all streams. ``settle`` is next, unless the sum cannot be used: then ``part`` may come before."""
        return self.part(unroll)

    def part(self, unroll: Unroll) -> UnrollGradient:
        """Of an unroll of which ``whole`` may have been asked before, or of some of its streams."""
        self.parameters.gradient.zero_()
        inputs = unroll.inputs.detach().requires_grad_()
        output, after = self.network.unroll(inputs, unroll.before, unroll.is_first)
        losses, returns = unroll_losses(self.network, output, unroll, self.loss)
        losses.total.backward()
        assert inputs.grad is not None
        nobody = torch.zeros_like(unroll.is_first[0])
        losses = Losses(*(part.detach() for part in losses))
        targets = torch.where(unroll.valid, returns.targets, torch.zeros_like(returns.targets))
        return UnrollGradient(losses, targets.sum(), targets.square().sum(), inputs.grad, after, nobody)

    def settle(self, after: CoreState) -> None:
        """What there is still to do to the sensitivity at the end of the unroll."""
        self.network.core.settle(after)

    def can_repeat(self, before: CoreState, after: CoreState) -> bool:
        """Whether the unroll that led from one to the other can be asked for again, before ``settle``."""
        return self.network.core.can_repeat(before, after)


def unroll_gradient(differentiation: Differentiation, unroll: Unroll, stem: Differentiable) -> UnrollGradient:
    """Overwrites the parameters' gradient by the sum over steps and streams, exact for the weights that ``unroll.values`` are of.

    Args:
        stem: the one that the unroll's inputs came through.

    If the sum is not finite, each stream is looked at by itself (one more pass of the core for each) and the sum taken over those
    whose own gradient is. Where that finds none, or the sensitivity has already been advanced in place, the sum stays what it is: the
    learner refuses it and names the parameter.
    """
    gradient = _of_sound_streams(differentiation, unroll)
    differentiation.settle(gradient.after)
    stem.backward(gradient.inputs)
    return gradient


def _of_sound_streams(differentiation: Differentiation, unroll: Unroll) -> UnrollGradient:
    whole = differentiation.whole(unroll)
    gradient = differentiation.parameters.gradient
    if is_representable(gradient) and is_representable(whole.inputs):
        return whole
    if unroll.num_envs == 1 or not differentiation.can_repeat(unroll.before, whole.after):
        return whole
    broken = gradient.clone()
    streams = torch.eye(unroll.num_envs, dtype=torch.bool, device=unroll.is_first.device)
    sound = torch.stack([_is_sound(differentiation, unroll.of(one)) for one in streams])
    if not sound.any():
        gradient.copy_(broken)
        return whole
    kept = differentiation.part(unroll.of(sound))
    inputs = torch.zeros_like(whole.inputs)
    inputs[:, sound] = kept.inputs
    return kept._replace(inputs=inputs, after=whole.after, left_out=~sound)


LARGEST = 1e36
"""What a number of a gradient may be: hundreds of them can be added in float32."""


def is_representable(values: Tensor) -> bool:
    """Whether all numbers are finite, and small enough to be added to others. One read, and a second for those of above 1e19."""
    if torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32)).isfinite():
        return True
    low, high = values.aminmax()
    return bool((low >= -LARGEST) & (high <= LARGEST))


def unroll_losses(
    network: PolicyNetwork, output: PolicyOutput, unroll: Unroll, loss: LossConfig
) -> tuple[Losses, VTrace]:
    """What ``output``, of the unroll's steps, is worth."""
    returns = vtrace(
        log_ratios=unroll.log_ratios,
        rewards=unroll.rewards,
        values=output.values.detach(),
        next_values=unroll.next_values,
        terminated=unroll.terminated,
        truncated=unroll.truncated,
        valid=unroll.valid,
        discount=loss.discount,
        trace_decay=loss.trace_decay,
    )
    if loss.clip_ratio is not None:
        returns = returns._replace(advantages=within_reach(returns.advantages, unroll.log_ratios, loss.clip_ratio))
    losses = actor_critic_losses(
        distribution=network.distribution,
        parameters=output.parameters,
        values=output.values,
        actions=unroll.actions,
        returns=returns,
        valid=unroll.valid,
        entropy_cost=loss.entropy_cost,
        baseline_cost=loss.baseline_cost,
    )
    return losses, returns


LARGEST_RATIO = 1e6
"""That a mean of ratios, or of divergences, counts."""


def importance(unroll: Unroll, left_out: Bool[Tensor, " B"], clip_ratio: float | None) -> dict[str, float | int | None]:
    """The fields of ``UnrollStatistics`` that say how far the policy that learns from an unroll is from the one that acted."""
    counted = unroll.valid & ~left_out
    log_ratios = torch.where(counted, unroll.log_ratios, torch.zeros_like(unroll.log_ratios)).double()
    ratios = log_ratios.exp()
    total, divergence, above, beyond, steps = numbers(
        torch.stack(  # one read from the device
            [
                (ratios.clamp(max=LARGEST_RATIO) * counted).sum(),
                (ratios - 1 - log_ratios).clamp(max=LARGEST_RATIO).sum(),
                (log_ratios > 0).double().sum(),
                ((ratios - 1).abs() > (clip_ratio or 0.0)).double().sum(),
                counted.double().sum(),
            ]
        )
    )
    return {
        "importance_sum": total,
        "importance_clipped": round(above),
        "importance_steps": round(steps),
        "divergence_sum": divergence,
        "clip_ratio_exceeded": None if clip_ratio is None else round(beyond),
    }


def _is_sound(differentiation: Differentiation, unroll: Unroll) -> Tensor:
    alone = differentiation.part(unroll)
    sound = is_representable(differentiation.parameters.gradient) and is_representable(alone.inputs)
    return torch.tensor(sound, device=unroll.is_first.device)
