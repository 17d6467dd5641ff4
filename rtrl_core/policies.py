"""What the numbers of the policy head mean: a distribution over actions, as pure functions of ``[..., A]`` parameters."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch.nn import functional

from rtrl_core.recording import is_recording
from rtrl_core.shapes import Float, Int, Shaped, Tensor
from rtrl_core.untyped import pieces


@runtime_checkable
class ActionDistribution(Protocol):
    """A family of distributions. ``num_parameters`` is A; batch axes are free."""

    num_parameters: int
    encoding_size: int

    def sample(
        self, parameters: Float[Tensor, "*batch A"], generator: torch.Generator | None = None
    ) -> Shaped[Tensor, "..."]: ...

    def mode(self, parameters: Float[Tensor, "*batch A"]) -> Shaped[Tensor, "..."]: ...

    def log_prob(
        self, parameters: Float[Tensor, "*batch A"], actions: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "*batch"]: ...

    def entropy(self, parameters: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]: ...

    def encode(self, actions: Shaped[Tensor, "..."]) -> Float[Tensor, "*batch E"]:
        """The action as core input: one-hot, or the vector itself."""
        ...

    def of(self, streams: slice) -> "ActionDistribution":
        """The same for these streams alone; another one where it differs between streams."""
        del streams
        return self


class Categorical(ActionDistribution):
    """``num_actions`` logits; actions are int64 ``[...]``."""

    def __init__(self, num_actions: int) -> None:
        self.num_parameters = num_actions
        self.encoding_size = num_actions

    def sample(
        self, parameters: Float[Tensor, "*batch A"], generator: torch.Generator | None = None
    ) -> Shaped[Tensor, "..."]:
        """By the Gumbel trick: one pass, and as repeatable as the generator."""
        uniform = torch.rand(parameters.shape, generator=generator, device=parameters.device, dtype=parameters.dtype)
        return (parameters - torch.log(-torch.log(uniform.clamp_(1e-20, 1 - 1e-7)))).argmax(-1)

    def mode(self, parameters: Float[Tensor, "*batch A"]) -> Shaped[Tensor, "..."]:
        return parameters.argmax(-1)

    def log_prob(
        self, parameters: Float[Tensor, "*batch A"], actions: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "*batch"]:
        return functional.log_softmax(parameters, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, parameters: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        log_probabilities = functional.log_softmax(parameters, -1)
        return -(log_probabilities.exp() * log_probabilities).sum(-1)

    def encode(self, actions: Shaped[Tensor, "..."]) -> Float[Tensor, "*batch E"]:
        return _one_hot(actions, self.encoding_size)


class QValues(Categorical):
    """``num_actions`` values, of which the action with the largest is taken; sampled, any other one as well now and then."""

    def __init__(self, num_actions: int, epsilon: float = 0.001) -> None:
        super().__init__(num_actions)
        self.epsilon: float | Float[Tensor, " streams"] = epsilon
        """Probability with which a sampled action is drawn evenly, of all streams or of each; at the start that of evaluations."""

    def sample(
        self, parameters: Float[Tensor, "*batch A"], generator: torch.Generator | None = None
    ) -> Shaped[Tensor, "..."]:
        shape, device = parameters.shape[:-1], parameters.device
        explores = torch.rand(shape, generator=generator, device=device) < self.epsilon
        evenly = torch.randint(self.num_parameters, shape, generator=generator, device=device)
        return torch.where(explores, evenly, self.mode(parameters))

    def of(self, streams: slice) -> "QValues":
        if not isinstance(self.epsilon, Tensor):
            return self
        theirs = QValues(self.num_parameters)
        theirs.epsilon = self.epsilon[streams]
        return theirs


class FactoredCategorical(ActionDistribution):
    """Several independent choices at once, one after the other in the parameters: A is the sum of ``sizes``; actions int64 ``[..., K]``."""

    ABSENT = -1e9
    """Logit of the options that a smaller choice lacks beside the widest: its probability is exactly zero."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.num_parameters = sum(self.sizes)
        self.encoding_size = self.num_parameters
        self._each = Categorical(max(self.sizes))

    def sample(
        self, parameters: Float[Tensor, "*batch A"], generator: torch.Generator | None = None
    ) -> Shaped[Tensor, "..."]:
        return self._each.sample(self._split(parameters), generator)

    def mode(self, parameters: Float[Tensor, "*batch A"]) -> Shaped[Tensor, "..."]:
        return self._each.mode(self._split(parameters))

    def log_prob(
        self, parameters: Float[Tensor, "*batch A"], actions: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "*batch"]:
        return self._each.log_prob(self._split(parameters), actions).sum(-1)

    def entropy(self, parameters: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        return self._each.entropy(self._split(parameters)).sum(-1)

    def encode(self, actions: Shaped[Tensor, "..."]) -> Float[Tensor, "*batch E"]:
        choices = zip(actions.unbind(-1), self.sizes, strict=True)
        return torch.cat([_one_hot(choice, size) for choice, size in choices], -1)

    def _split(self, parameters: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch K M"]:
        """The logits of each choice, filled up to the widest."""
        parts = pieces(parameters, self.sizes, -1)
        return torch.stack(
            [functional.pad(p, (0, max(self.sizes) - p.shape[-1]), value=self.ABSENT) for p in parts], -2
        )


class DiagonalGaussian(ActionDistribution):
    """Means and log standard deviations of ``size`` independent normals; actions are float32 ``[..., size]``."""

    MIN_LOG_SCALE, MAX_LOG_SCALE = -5.0, 2.0

    def __init__(self, size: int) -> None:
        self.num_parameters = 2 * size
        self.encoding_size = size

    def sample(
        self, parameters: Float[Tensor, "*batch A"], generator: torch.Generator | None = None
    ) -> Shaped[Tensor, "..."]:
        mean, log_scale = self._split(parameters)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + log_scale.exp() * noise

    def mode(self, parameters: Float[Tensor, "*batch A"]) -> Shaped[Tensor, "..."]:
        return self._split(parameters)[0]

    def log_prob(
        self, parameters: Float[Tensor, "*batch A"], actions: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "*batch"]:
        mean, log_scale = self._split(parameters)
        standardised = (actions - mean) / log_scale.exp()
        return (-0.5 * standardised.square() - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, parameters: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
        _, log_scale = self._split(parameters)
        return (log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def encode(self, actions: Shaped[Tensor, "..."]) -> Float[Tensor, "*batch E"]:
        return actions.float()

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = parameters.chunk(2, -1)
        return mean, log_scale.clamp(self.MIN_LOG_SCALE, self.MAX_LOG_SCALE)


def _one_hot(actions: Int[Tensor, "*batch"], size: int) -> Float[Tensor, "*batch {size}"]:
    if is_recording():  # torch's own looks whether each is one of them, which the host cannot
        return (actions.unsqueeze(-1) == torch.arange(size, device=actions.device)).float()
    return functional.one_hot(actions, size).float()
