"""Encoders of a user's own that cannot be recorded, or die, for tests that name them as ``own_encoders:Class``."""

from typing import Any

import torch

from rtrl_core import Encoder
from rtrl_core.shapes import Tensor


class ReadsNumbers(Encoder):
    """On the host, at each pass."""

    def __init__(self, shape: Any, layout: Any, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        self.linear = torch.nn.Linear(shape[0], features)

    def forward(self, observation: Tensor) -> Tensor:
        assert float(observation.sum()) is not None
        return self.linear(observation.to(self.linear.weight.dtype))


class Counts(ReadsNumbers):
    """Does something else at each pass, of which a recording knows nothing."""

    passes = 0

    def forward(self, observation: Tensor) -> Tensor:
        self.passes += 1
        return self.linear(observation.to(self.linear.weight.dtype)) * self.passes


class Dies(ReadsNumbers):
    """After forty passes nothing goes back through it any more."""

    passes = 0

    def forward(self, observation: Tensor) -> Tensor:
        self.passes += 1
        features = self.linear(observation.to(self.linear.weight.dtype))
        return features if self.passes <= 40 else features.detach() + 0 * features


class ReadsGradients(Encoder):
    """Only on the way back."""

    def __init__(self, shape: Any, layout: Any, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        self.linear = torch.nn.Linear(shape[0], features)

    def forward(self, observation: Tensor) -> Tensor:
        outputs = self.linear(observation.to(self.linear.weight.dtype))
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: gradient.nan_to_num(float(gradient.sum())))
        return outputs
