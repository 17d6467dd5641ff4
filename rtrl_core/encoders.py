"""What turns an observation into features: the IMPALA residual stem, the Nature CNN, MLPs, those of streaming, an instruction reader.

Images enter as uint8, or as floats from 0 to 1, and become channels-last floats here: the memory format that convolutions are
fast in. Weights of convolutions stay in that format, see ``layout.py``.
"""

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from rtrl_core.options import NoOptions
from rtrl_core.pictures import image_input
from rtrl_core.shapes import Float, Int, Shaped, Tensor


class Encoder(nn.Module):
    """Observations in, ``features`` numbers out.

    Args:
        shape: of one observation.
        layout: meaning of its axes: ``CHW``, ``HWC`` or ``vector``.
        features: how many numbers are wanted; an encoder that gives another number sets ``features`` itself.
        options: an instance of ``Options``, the encoder's own dataclass; ``None`` is its defaults.

    Raises:
        ValueError: for an observation that it cannot read.
    """

    Options: ClassVar[type] = NoOptions
    takes_standardised: ClassVar[bool] = False
    """Whether images may come to it standardised, as floats around zero (``network.standardise_steps``); else it gets pixels."""

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__()
        self.shape, self.layout, self.features = shape, layout, features
        self.options = self.Options() if options is None else options


class NoEncoder(Encoder):
    """The observation, flattened: for small vectors, whose meaning a mixture would only blur."""

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, math.prod(shape), options)

    def forward(self, observation: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B F"]:
        return observation.flatten(1).float()


class ImageEncoder(Encoder):
    """One that reads pictures only."""

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        if layout == "vector" or len(shape) != 3:
            raise ValueError(
                f"the {self.name()} encoder reads images, but the observations have shape {shape}; use network.encoder=mlp"
            )

    @classmethod
    def name(cls) -> str:
        """As a user knows it."""
        return cls.__name__.removesuffix("Encoder").lower()


class PlainEncoder(ImageEncoder):
    """Convolutions with rectifiers, one after the other, and a linear layer."""

    takes_standardised = True
    LAYERS: ClassVar[tuple[tuple[int, int, int], ...]]
    """Channels, kernel and stride of each convolution."""

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        channels, height, width = _channels_first(shape, layout)
        layers: list[nn.Module] = []
        for outputs, kernel, stride in self.LAYERS:
            layers += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU(inplace=True)]
            channels, height, width = outputs, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.convolutions = nn.Sequential(*layers)
        if height < 1 or width < 1:
            least = self.smallest()
            raise ValueError(
                f"the {self.name()} encoder needs images of at least {least}x{least}, got {shape}; use network.encoder=impala"
            )
        self.linear = nn.Linear(channels * height * width, features)

    @classmethod
    def smallest(cls) -> int:
        """Height and width of the smallest image of which something is left."""
        size = 1
        for _, kernel, stride in reversed(cls.LAYERS):
            size = (size - 1) * stride + kernel
        return size

    def forward(self, observation: Shaped[Tensor, "B x y z"]) -> Float[Tensor, "B F"]:
        maps = self.convolutions(image_input(observation, self.layout))
        return functional.relu(self.linear(_flatten_channels_last(maps)))


class NatureEncoder(PlainEncoder):
    """Three convolutions and a linear layer (Mnih et al. 2015)."""

    LAYERS: ClassVar[tuple[tuple[int, int, int], ...]] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


class ShallowEncoder(PlainEncoder):
    """Two convolutions and a linear layer, with a third of the arithmetic: the network of A3C (Mnih et al. 2016), IMPALA's shallow one."""

    LAYERS: ClassVar[tuple[tuple[int, int, int], ...]] = ((16, 8, 4), (32, 4, 2))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return maps + self.second(functional.relu(self.first(functional.relu(maps)), inplace=True))


@dataclass(frozen=True, slots=True)
class ImpalaOptions:
    channels: tuple[int, ...] = (16, 32, 32)
    """Of each stage."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= 16 or not all(1 <= width <= 4096 for width in self.channels):
            raise ValueError(f"channels must be 1 to 16 numbers from 1 to 4096, got {list(self.channels)[:20]}")


class ImpalaEncoder(ImageEncoder):
    """Stages of convolution, max-pooling and two residual blocks (Espeholt et al. 2018, figure 3, right)."""

    takes_standardised = True
    Options: ClassVar[type] = ImpalaOptions

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        previous, height, width = _channels_first(shape, layout)
        stages: list[nn.Module] = []
        for width_of_stage in self.options.channels:
            stages += [
                nn.Conv2d(previous, width_of_stage, 3, padding=1),
                nn.MaxPool2d(3, 2, padding=1),
                ResidualBlock(width_of_stage),
                ResidualBlock(width_of_stage),
            ]
            previous, height, width = width_of_stage, (height + 1) // 2, (width + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(previous * height * width, features)

    def forward(self, observation: Shaped[Tensor, "B x y z"]) -> Float[Tensor, "B F"]:
        maps = functional.relu(self.stages(image_input(observation, self.layout)))
        return functional.relu(self.linear(_flatten_channels_last(maps)))


@dataclass(frozen=True, slots=True)
class MLPOptions:
    hidden: tuple[int, ...] = (64,)
    """Sizes of the layers before the last."""

    def __post_init__(self) -> None:
        if len(self.hidden) > 64 or not all(1 <= size <= 65_536 for size in self.hidden):
            raise ValueError(f"hidden must be at most 64 numbers from 1 to 65536, got {list(self.hidden)[:80]}")


class MLPEncoder(Encoder):
    """Linear layers with tanh, for vectors."""

    Options: ClassVar[type] = MLPOptions

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        sizes = [math.prod(shape), *self.options.hidden, features]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, observation: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B F"]:
        return self.layers(observation.flatten(1).to(next(self.parameters()).dtype))


class NormalisedLeaky(nn.Module):
    """Layer norm over all numbers of a stream, whole maps included, without parameters; then leaky ReLU."""

    def forward(self, maps: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        return functional.leaky_relu(functional.layer_norm(maps, maps.shape[1:]))


@dataclass(frozen=True, slots=True)
class StreamMLPOptions(MLPOptions):
    hidden: tuple[int, ...] = (128,)


class StreamMLPEncoder(Encoder):
    """Linear layers with layer norm, for vectors: the network of Elsayed, Vasan & Mahmood (2024) below its last layer."""

    Options: ClassVar[type] = StreamMLPOptions

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([math.prod(shape), *self.options.hidden, features]):
            layers += [nn.Linear(inputs, outputs), NormalisedLeaky()]
        self.layers = nn.Sequential(*layers)

    def forward(self, observation: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B F"]:
        return self.layers(observation.flatten(1).to(next(self.parameters()).dtype))


class StreamConvEncoder(ImageEncoder):
    """Three convolutions of long strides and a linear layer, with layer norm: their network for Atari."""

    takes_standardised = True

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        channels, height, width = _channels_first(shape, layout)
        layers: list[nn.Module] = []
        for outputs, kernel, stride in ((32, 8, 5), (64, 4, 3), (64, 3, 2)):
            layers += [nn.Conv2d(channels, outputs, kernel, stride), NormalisedLeaky()]
            channels, height, width = outputs, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        if height < 1 or width < 1:
            raise ValueError(
                f"the stream_conv encoder needs images of at least 53x53, got {shape}; use network.encoder=impala"
            )
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Sequential(nn.Linear(channels * height * width, features), NormalisedLeaky())

    def forward(self, observation: Shaped[Tensor, "B x y z"]) -> Float[Tensor, "B F"]:
        maps = self.convolutions(image_input(observation, self.layout))
        return self.linear(_flatten_channels_last(maps))


class TwinEncoder(Encoder):
    """Two encoders of the same kind that share no weights, side by side: the actor's features, then the critic's."""

    def __init__(self, actor: Encoder, critic: Encoder) -> None:
        super().__init__(actor.shape, actor.layout, actor.features + critic.features, actor.options)
        self.actor, self.critic = actor, critic

    def forward(self, observation: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B F"]:
        return torch.cat([self.actor(observation), self.critic(observation)], dim=-1)


ENCODERS: dict[str, type[Encoder]] = {
    "impala": ImpalaEncoder,
    "nature": NatureEncoder,
    "shallow": ShallowEncoder,
    "mlp": MLPEncoder,
    "none": NoEncoder,
    "stream_mlp": StreamMLPEncoder,
    "stream_conv": StreamConvEncoder,
}


class InstructionEncoder(nn.Module):
    """Word hashes -> embedding -> LSTM, the last output (IMPALA's language channel for DMLab)."""

    def __init__(self, num_buckets: int = 1000, embedding_size: int = 20, num_units: int = 64) -> None:
        super().__init__()
        self.num_buckets = num_buckets
        self.embedding = nn.Embedding(num_buckets + 1, embedding_size, padding_idx=0)
        self.lstm = nn.LSTM(embedding_size, num_units, batch_first=True)
        self.output_size = num_units

    def forward(self, words: Int[Tensor, "B L"]) -> Float[Tensor, "B F"]:
        """``words`` are non-negative hashes, 0 where there is no word; the output is the one after the last word."""
        buckets = torch.where(words > 0, words % self.num_buckets + 1, 0)
        with warnings.catch_warnings():
            # cuDNN wants weights in an order of its own, and copies them at every call from where they are: parts of one flat vector.
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
            outputs, _ = self.lstm(self.embedding(buckets))
        last = (words > 0).sum(1).clamp(min=1) - 1
        return outputs[torch.arange(len(words), device=words.device), last].masked_fill(words[:, :1] <= 0, 0)


def _channels_first(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    return shape if layout == "CHW" else (shape[2], shape[0], shape[1])


def _flatten_channels_last(maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
    """In memory order (H, W, C): free for channels-last maps, where the usual order would copy."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1)
