"""How the weights of linear and convolutional layers begin, where PyTorch's own choice is not wanted."""

import math

import torch
from torch import nn

from rtrl_core.shapes import Float, Tensor

SPARSITY = 0.9
"""Share of a unit's inputs that begin at zero."""


def initialise_orthogonally(module: nn.Module) -> None:
    """Orthogonal weights of gain sqrt(2), no biases: activations keep their size from layer to layer.

    PyTorch's default shrinks them: on Atari, features of the Nature CNN then differ between frames by 0.0004 only, and the value
    function needs a million steps to notice.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def initialise_sparsely(module: nn.Module) -> None:
    """``sparse_`` for the weights of every linear and convolutional layer, no biases (Elsayed, Vasan & Mahmood 2024)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            sparse_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def sparse_(weight: Float[Tensor, "outputs *inputs"]) -> None:
    """``U(+-1/sqrt(fan_in))``, of which each unit keeps a tenth, drawn for itself; the others are zero.

    A unit of few inputs keeps at least one, where the published code leaves it none.
    """
    fan_in = weight[0].numel()
    weight.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
    kept = max(1, fan_in - math.ceil(SPARSITY * fan_in))
    ranks = torch.rand(len(weight), fan_in, device=weight.device).argsort(1).argsort(1)
    weight.mul_((ranks < kept).view(weight.shape))
