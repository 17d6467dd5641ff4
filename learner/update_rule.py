"""From a summed gradient to new weights: clip by global norm, then torch's RMSProp or Adam on one flat vector."""

from typing import Any

import torch
from torch import nn

from conf.schema import LearnerConfig
from rtrl_core.shapes import Float, Tensor


class UpdateRule:
    """An optimizer over the flat vector of weights, which it changes in place.

    RMSProp is the paper's (PAPER.md 2.2): epsilon is added outside the root, no momentum. The learning rate falls linearly from
    ``learning_rate`` to ``final_learning_rate`` over ``total_steps`` agent steps.
    """

    def __init__(self, config: LearnerConfig, vector: Float[Tensor, " parameters"], total_steps: int) -> None:
        self._config = config
        self._total_steps = total_steps
        self._weights = nn.Parameter(vector)
        if config.optimizer == "adam":
            betas = (config.adam_betas[0], config.adam_betas[1])
            self._optimizer: torch.optim.Optimizer = torch.optim.Adam(
                [self._weights], lr=config.learning_rate, betas=betas, eps=config.adam_epsilon, fused=True
            )
        else:
            self._optimizer = torch.optim.RMSprop(
                [self._weights], lr=config.learning_rate, alpha=config.rmsprop_decay, eps=config.rmsprop_epsilon
            )

    def learning_rate(self, agent_steps: int) -> float:
        """At a point of the run, counted in agent steps."""
        progress = min(1.0, agent_steps / self._total_steps)
        start, end = self._config.learning_rate, self._config.final_learning_rate
        return start + (end - start) * progress

    def apply(self, gradient: Float[Tensor, " parameters"], norm: float, agent_steps: int) -> None:
        """One update. Scales ``gradient`` in place where its global norm exceeds ``clip_norm``; 0 clips nothing."""
        limit = self._config.clip_norm
        if 0 < limit < norm:
            gradient.mul_(limit / norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(agent_steps)
        self._weights.grad = gradient
        self._optimizer.step()

    def get_state(self) -> dict[str, Any]:
        """A copy of moments and step count, by name; empty before the first update."""
        state = self._optimizer.state_dict()["state"].get(0, {})
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        if not state:
            return
        complete = self._optimizer.state_dict()
        complete["state"] = {
            0: {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
        }
        self._optimizer.load_state_dict(complete)
