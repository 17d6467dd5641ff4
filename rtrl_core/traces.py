"""Eligibility traces and the step that is bounded by them: what a learner needs that updates at every step.

    e_t      = gamma lambda e_{t-1} + g_t                                       g_t: of log pi, or of V
    step_t   = alpha / max(1, alpha kappa max(|delta_t|, 1) |e_t|_1)            ObGD
    theta   += step_t delta_t e_t

Elsayed, Vasan & Mahmood (2024), "Streaming Deep Reinforcement Learning Finally Works", algorithms 2 and 3.
"""

from collections.abc import Sequence

import torch

from rtrl_core.shapes import Bool, Float, Tensor
from rtrl_core.untyped import numbers, pieces, vector_norm


def bounded_step_sizes(
    deltas: Float[Tensor, " B"], norms: Float[Tensor, " B"], learning_rate: float, kappa: float
) -> Float[Tensor, " B"]:
    """Of each stream, so small that no update overshoots: the error of what it was made from does not change its sign.

    Args:
        norms: ``|e|_1`` of each stream.
        learning_rate: alpha, the step where nothing bounds it.
        kappa: how far below the bound to stay; above 1.
    """
    return learning_rate / (learning_rate * kappa * deltas.abs().clamp(min=1) * norms).clamp(min=1)


class EligibilityTraces:
    """``e`` for some parameters, one per stream: ``vector`` is ``[B, their numbers]``."""

    def __init__(self, parameters: Sequence[Tensor], num_streams: int) -> None:
        self._parameters = list(parameters)
        sizes = [parameter.numel() for parameter in self._parameters]
        example = self._parameters[0]
        self.vector = torch.zeros(num_streams, sum(sizes), dtype=example.dtype, device=example.device)
        # Views of each parameter's part: adding to them needs no flat copy of a gradient.
        self._views = [
            [part.view_as(parameter) for part, parameter in zip(pieces(row, sizes), self._parameters, strict=True)]
            for row in self.vector
        ]

    @torch.no_grad()
    def add(self, stream: int, gradients: Sequence[Tensor | None], decay: float) -> None:
        """``e = decay e + g`` of one stream; ``None`` is a gradient of zero."""
        self.vector[stream].mul_(decay)
        for view, gradient in zip(self._views[stream], gradients, strict=True):
            if gradient is not None:
                view.add_(gradient)

    def norms(self) -> Float[Tensor, " B"]:
        """``|e|_1``."""
        return vector_norm(self.vector, 1, order=1.0)

    @torch.no_grad()
    def move(self, weights: Float[Tensor, " B"]) -> None:
        """Adds ``sum_b weights_b e_b`` to the parameters, in place. A stream of weight 0 has no part in it, whatever it holds."""
        for views, weight in zip(self._views, numbers(weights), strict=True):
            if weight:
                for parameter, view in zip(self._parameters, views, strict=True):
                    parameter.add_(view, alpha=weight)

    def reset(self, streams: Bool[Tensor, " B"]) -> None:
        """Zeroes the traces of these streams, whatever they held."""
        self.vector.masked_fill_(streams.unsqueeze(1), 0)
