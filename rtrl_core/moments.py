"""Running mean and variance of all that was ever seen (Welford 1962; in batches: Chan, Golub & LeVeque 1983), kept beside the weights.

They are parameters without a gradient. So they lie in the network's flat vector, and go wherever the weights go: to the learner,
into checkpoints, into an evaluation.
"""

import torch
from torch import nn

from rtrl_core.shapes import Float, Tensor

EPSILON = 1e-8
"""Added to a variance under its root."""


class RunningMoments(nn.Module):
    """Of ``size`` numbers each.

    Each is kept as the sum of two numbers of the network's type, the second of which is what rounding took from the first: 48 bits in
    float32, where a single one would stop counting at 16,777,216.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.count = _pair(1)
        self.mean = _pair(size)
        self.squares = _pair(size)
        """Sum of squared deviations from the mean."""

    @torch.no_grad()
    def update(self, samples: Float[Tensor, "n size"]) -> None:
        """Takes ``n`` more samples; none changes nothing."""
        if not len(samples):
            return
        new = samples.double()
        count, mean, squares = _sum(self.count), _sum(self.mean), _sum(self.squares)
        total, here = count + len(new), new.mean(0)
        distance = here - mean
        _split(total, self.count)
        _split(mean + distance * (len(new) / total), self.mean)
        _split(
            squares + (new - here).square().sum(0) + distance.square() * (count * len(new) / total),
            self.squares,
        )

    @torch.no_grad()
    def moments(self) -> tuple[Float[Tensor, " size"], Float[Tensor, " size"]]:
        """Mean, and root of the sample variance, in float64; 0 and 1 of nothing, and a variance of 1 for a single sample."""
        count = _sum(self.count)
        variance = torch.where(count < 2, 1.0, _sum(self.squares) / (count - 1).clamp(min=1))
        return _sum(self.mean), (variance + EPSILON).sqrt()

    def normalised(self, samples: Float[Tensor, "n size"]) -> Float[Tensor, "n size"]:
        """Less the mean, in standard deviations, in the type of what is given."""
        mean, deviation = self.moments()
        return ((samples.double() - mean) / deviation).to(samples.dtype)

    def scaled(self, samples: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """In standard deviations, around zero; of moments of a single number."""
        return (samples.double() / self.moments()[1]).to(samples.dtype)


def _pair(size: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(2, size), requires_grad=False)


def _sum(pair: Tensor) -> Tensor:
    return pair[0].double() + pair[1].double()


def _split(value: Tensor, pair: Tensor) -> None:
    pair[0] = value
    pair[1] = value - pair[0].double()
