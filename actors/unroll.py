"""One unroll of B streams as time-major arrays: all that a loss needs, and nothing about how a gradient is made of it."""

from dataclasses import dataclass, fields

import torch

from rtrl_core import CoreState
from rtrl_core.shapes import Bool, Float, Shaped, Tensor


@dataclass(slots=True)
class Unroll:
    """Row ``t`` is the transition that action ``a_t`` caused."""

    inputs: Float[Tensor, "T B D"]
    """Of the core."""
    is_first: Bool[Tensor, "T B"]
    actions: Shaped[Tensor, "T B ..."]
    values: Float[Tensor, "T B"]
    rewards: Float[Tensor, "T B"]
    """Clipped."""
    terminated: Bool[Tensor, "T B"]
    truncated: Bool[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]
    next_values: Float[Tensor, "T B"]
    """``V'_{t+1}``: of the next step, or of the final observation where an episode was cut off."""
    log_ratios: Float[Tensor, "T B"]
    """``log pi(a_t) - log mu(a_t)``, of the policy that learns and the one that acted; zero where they are one."""
    before: CoreState
    """What the core carried at the start."""

    @classmethod
    def empty(cls, num_steps: int, input_size: int, actions: Shaped[Tensor, "B ..."], before: CoreState) -> "Unroll":
        """Rows to be filled; ``actions`` are any of the environment's, for their shape, type and place."""
        device, shape = actions.device, (num_steps, len(actions))

        def flags() -> Tensor:
            return torch.zeros(shape, dtype=torch.bool, device=device)

        def numbers() -> Tensor:
            return torch.zeros(shape, device=device)

        return cls(
            inputs=torch.zeros(*shape, input_size, device=device),
            is_first=flags(),
            actions=actions.new_zeros(num_steps, *actions.shape),
            values=numbers(),
            rewards=numbers(),
            terminated=flags(),
            truncated=flags(),
            valid=flags(),
            next_values=numbers(),
            log_ratios=numbers(),
            before=before,
        )

    @property
    def num_steps(self) -> int:
        return self.is_first.shape[0]

    @property
    def num_envs(self) -> int:
        return self.is_first.shape[1]

    def of(self, streams: Bool[Tensor, " B"]) -> "Unroll":
        """A copy with these streams only."""
        rows = {spec.name: getattr(self, spec.name)[:, streams] for spec in fields(self) if spec.name != "before"}
        return Unroll(**rows, before=self.before.of(streams))
