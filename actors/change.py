"""How far new weights move the policy, for nothing: the step after an unroll is looked at under its weights, for the value, and taken under
the next ones.
"""

import torch

from rtrl_core.policies import ActionDistribution
from rtrl_core.shapes import Bool, Float, Shaped, Tensor


class PolicyChange:
    """KL divergence, from unroll to unroll, of the streams of one group: ``r - 1 - log r`` of the probability ``r`` that the weights before
    gave an action, over what those now gave it; its mean is ``KL(now || before)``, and it is never negative (Schulman 2020)."""

    def __init__(self) -> None:
        self._before: Float[Tensor, "S A"] | None = None
        self._known: Bool[Tensor, " S"] | None = None
        self.divergences: Float[Tensor, " S"] | None = None
        """Of the last unroll's first step; NaN in streams that are not known from before or whose numbers are none."""

    def note(self, parameters: Float[Tensor, "S A"]) -> None:
        """What the policy says at the step after an unroll, under the weights that took it."""
        self._before, self._known = parameters, torch.ones_like(parameters[:, 0], dtype=torch.bool)

    def compare(
        self, distribution: ActionDistribution, parameters: Float[Tensor, "S A"], actions: Shaped[Tensor, "S ..."]
    ) -> None:
        """What it says when that step is taken, and what is done."""
        if self._before is None or self._known is None:
            self.divergences = None
            return
        log_ratios = distribution.log_prob(self._before, actions) - distribution.log_prob(parameters, actions)
        log_ratios = log_ratios.double()
        found = (log_ratios.exp() - 1 - log_ratios).clamp(max=LARGEST)
        self.divergences = found.masked_fill(~self._known, torch.nan)

    def forget(self, streams: Bool[Tensor, " S"]) -> None:
        """These do not come to that step with the state that it was looked at with."""
        if self._known is not None:
            self._known = self._known & ~streams

    def get_state(self) -> dict[str, Tensor]:
        """What the next unroll is compared with; empty if there is nothing."""
        if self._before is None or self._known is None:
            return {}
        return {"before": self._before.clone(), "known": self._known.clone()}

    def set_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        self._before = state["before"].to(device) if state else None
        self._known = state["known"].to(device) if state else None


LARGEST = 1e6
"""Of one divergence that is counted: a stream whose numbers run away would be all that a mean says."""
