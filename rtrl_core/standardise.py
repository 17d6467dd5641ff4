"""Images less what they have in common, in standard deviations: fixed numbers for each pixel, measured before training.

Most of an Atari picture never changes. Convolutions see it all the same: what they make of the ball is a small difference of large sums,
which few of Adam's steps upset. Input that is centred is learned from sooner (LeCun, Bottou, Orr & Mueller 1998, section 4.3).

The numbers are parameters without a gradient. So they lie in the network's flat vector, and go wherever the weights go: to the actors,
into checkpoints, into an evaluation. They never change while a run learns: what an actor carries was made with the same ones.
"""

from collections.abc import Iterable

import torch
from torch import nn

from rtrl_core.pictures import image_input
from rtrl_core.shapes import Float, Shaped, Tensor

LEAST_DEVIATION = 0.05
"""Of pixels from 0 to 1: one that hardly changed is not magnified without end."""
LIMIT = 5.0
"""Standard deviations that are left of any number."""


class StandardisedImages(nn.Module):
    """As long as nothing was measured, pixels stay as they are, from 0 to 1.

    Args:
        shape: of an image, as the environment gives it.
        layout: ``CHW`` or ``HWC``.
    """

    def __init__(self, shape: tuple[int, ...], layout: str) -> None:
        super().__init__()
        self.layout = layout
        channels, height, width = shape if layout == "CHW" else (shape[2], *shape[:2])
        # Four-dimensional parameters are stored channels-last, as the images are that they meet.
        ones = torch.ones(1, channels, height, width).to(memory_format=torch.channels_last)
        self.scale = nn.Parameter(ones, requires_grad=False)
        self.shift = nn.Parameter(torch.zeros_like(ones), requires_grad=False)

    def forward(self, observation: Shaped[Tensor, "B x y z"]) -> Float[Tensor, "B x y z"]:
        """In the layout of what comes, and in the type of the parameters."""
        maps = torch.addcmul(self.shift, self._maps(observation), self.scale).clamp_(-LIMIT, LIMIT)
        return maps.permute(0, 2, 3, 1) if self.layout == "HWC" else maps

    @torch.no_grad()
    def measure(self, observations: Iterable[Tensor]) -> None:
        """Takes mean and deviation of each pixel from batches of images, ``[B, x, y, z]``; none changes nothing."""
        count, total, squares = 0, torch.zeros_like(self.scale).double(), torch.zeros_like(self.scale).double()
        for observation in observations:
            maps = self._maps(observation).double()
            count += len(maps)
            total += maps.sum(0, keepdim=True)
            squares += maps.square().sum(0, keepdim=True)
        if count:
            mean = total / count
            deviation = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=LEAST_DEVIATION)
            self.scale.copy_(1 / deviation)
            self.shift.copy_(-mean / deviation)

    def _maps(self, observation: Tensor) -> Float[Tensor, "B C H W"]:
        return image_input(observation, self.layout, self.scale.dtype)
