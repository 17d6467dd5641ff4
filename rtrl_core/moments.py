"""Running mean and variance of all that was ever seen (Welford 1962; in batches: Chan, Golub & LeVeque 1983), kept beside the weights.

They are parameters without a gradient. So they lie in the network's flat vector, and go wherever the weights go: to the learner,
into checkpoints, into an evaluation.
"""

import torch
from torch import nn

from rtrl_core.shapes import Float, Tensor
from rtrl_core.untyped import pieces

EPSILON = 1e-8
"""Added to a variance under its root."""


class RunningMoments(nn.Module):
    """Of ``size`` numbers each.

    Each is kept as the sum of two numbers of the network's type, the second of which is what rounding took from the first: 48 bits in
    float32, where a single one would stop counting at 16,777,216.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.pairs = nn.Parameter(torch.zeros(2, 1 + 2 * size), requires_grad=False)
        """Count, means, and sums of squared deviations from them."""
        self._sizes = (1, size, size)

    @torch.no_grad()
    def update(self, samples: Float[Tensor, "n size"]) -> None:
        """Takes ``n`` more samples; none changes nothing."""
        if not len(samples):
            return
        new = samples.double()
        count, mean, squares = self._sums()
        total, here = count + len(new), new.mean(0)
        distance = here - mean
        mean = mean + distance * (len(new) / total)
        squares = squares + (new - here).square().sum(0) + distance.square() * (count * len(new) / total)
        exact = torch.cat([total, mean, squares])
        self.pairs[0] = exact
        self.pairs[1] = exact - self.pairs[0]

    @torch.no_grad()
    def moments(self) -> tuple[Float[Tensor, " size"], Float[Tensor, " size"]]:
        """Mean, and root of the sample variance, in float64; 0 and 1 of nothing, and a variance of 1 for a single sample."""
        count, mean, squares = self._sums()
        variance = squares / (count - 1) if count >= 2 else torch.ones_like(squares)
        return mean, variance.add(EPSILON).sqrt_()

    def normalised(self, samples: Float[Tensor, "n size"]) -> Float[Tensor, "n size"]:
        """Less the mean, in standard deviations, in the type of what is given."""
        mean, deviation = self.moments()
        return ((samples - mean) / deviation).to(samples.dtype)

    def scaled(self, samples: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """In standard deviations, around zero; of moments of a single number."""
        return (samples / self.moments()[1]).to(samples.dtype)

    def _sums(self) -> tuple[Tensor, ...]:
        return pieces(self.pairs.detach().double().sum(0), self._sizes)
