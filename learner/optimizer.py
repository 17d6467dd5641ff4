"""From a summed gradient to new weights: clip by global norm, then torch's RMSProp or Adam on one flat vector."""

from typing import Any

import torch
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop

from conf.schema import LearnerConfig
from rtrl_core.shapes import Float, Tensor

MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "rmsprop": ("square_avg",), "rmsprop_tf": ("square_avg",)}
"""What each optimizer keeps of the gradients before, beside the number of its steps; names as in torch."""
FIRST_MOMENT = {"rmsprop_tf": 1.0}
"""What it begins with where that isn't zero."""


class Optimizer:
    """An optimizer over the flat vector of weights, which it changes in place.

    ``rmsprop`` is torch's, as the paper's code uses it: epsilon is added outside the root, no momentum. ``rmsprop_tf`` is TensorFlow's,
    of IMPALA's published code: epsilon is added inside, and the mean of the squares begins at 1. The learning rate falls linearly from
    ``learning_rate`` to ``final_learning_rate`` over ``total_steps`` agent steps, after it has risen linearly from nothing over
    ``warmup_updates`` updates: before an optimizer has seen many gradients their scale is a guess, and its first steps, all in one
    direction, may push a network to where no gradient comes back (Ma & Yarats 2021 of Adam).

    torch's optimizers are called as functions: its classes import the compiler, which takes longer than torch itself.
    """

    def __init__(self, config: LearnerConfig, vector: Float[Tensor, " parameters"], total_steps: int) -> None:
        self._config = config
        self._total_steps = total_steps
        self._weights = vector
        self._moments = MOMENTS[config.optimizer]
        self._state: dict[str, Tensor] = {}
        self._steps = 0
        """As the state has them, on the host."""

    def learning_rate(self, agent_steps: int) -> float:
        """Of the next update, at a point of the run that is counted in agent steps."""
        progress = min(1.0, agent_steps / self._total_steps)
        start, end = self._config.learning_rate, self._config.final_learning_rate
        risen = min(1.0, (self._steps + 1) / max(1, self._config.warmup_updates))
        return risen * (start + (end - start) * progress)

    def apply(self, gradient: Float[Tensor, " parameters"], norm: Float[Tensor, ""], agent_steps: int) -> float:
        """One update; returns its learning rate.

        Scales ``gradient`` in place where its global norm, ``norm``, exceeds ``clip_norm``; 0 clips nothing.
        """
        if self._config.clip_norm > 0:
            scale = (self._config.clip_norm / norm).clamp(max=1.0)
            if scale.device.type != "cpu" or scale < 1:
                gradient.mul_(scale.to(gradient.dtype))
        if not self._state:
            first = torch.full_like(gradient, FIRST_MOMENT.get(self._config.optimizer, 0.0))
            self.set_state({"step": torch.zeros(()), **dict.fromkeys(self._moments, first)})
        learning_rate = self.learning_rate(agent_steps)
        with torch.no_grad():
            self._step(gradient, learning_rate)
        self._steps += 1
        return learning_rate

    def _step(self, gradient: Float[Tensor, " parameters"], learning_rate: float) -> None:
        config, state = self._config, self._state
        if config.optimizer == "adam":
            adam(
                [self._weights],
                [gradient],
                [state["exp_avg"]],
                [state["exp_avg_sq"]],
                [],
                [state["step"]],
                fused=True,
                amsgrad=False,
                beta1=config.adam_betas[0],
                beta2=config.adam_betas[1],
                lr=learning_rate,
                weight_decay=0.0,
                eps=config.adam_epsilon,
                maximize=False,
            )
        elif config.optimizer == "rmsprop_tf":
            square_avg = state["square_avg"].lerp_(gradient.square(), 1 - config.rmsprop_decay)
            self._weights.addcdiv_(gradient, (square_avg + config.rmsprop_epsilon).sqrt_(), value=-learning_rate)
            state["step"].add_(1)
        else:
            rmsprop(
                [self._weights],
                [gradient],
                [state["square_avg"]],
                [],
                [],
                [state["step"]],
                lr=learning_rate,
                alpha=config.rmsprop_decay,
                eps=config.rmsprop_epsilon,
                weight_decay=0.0,
                momentum=0.0,
                centered=False,
            )

    def get_state(self) -> dict[str, Any]:
        """A copy of moments and step count, by name; empty before the first update."""
        return {name: value.clone() for name, value in self._state.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        # RMSProp counts its steps on the CPU, as torch's own class does; nothing depends on the count.
        counts_on = self._weights.device if self._config.optimizer == "adam" else torch.device("cpu")
        self._state = {
            name: value.to(counts_on if name == "step" else self._weights.device, copy=True)
            for name, value in state.items()
        }
        self._steps = int(state["step"]) if state else 0
