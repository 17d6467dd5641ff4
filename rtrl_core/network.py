"""The policy network: encoder -> core input -> recurrent core -> output gate -> policy and value heads.

It is used in two ways. Acting goes one step at a time and needs no core gradient: ``encode``, ``core_inputs``, ``act``. Learning
takes the same core inputs as a whole unroll: ``unroll``, under autograd. Both give the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cells import DiagonalCell, RecurrentCell
from rtrl_core.cores import Core, CoreState, build_core
from rtrl_core.cores.side_by_side import SideBySideCore
from rtrl_core.encoders import ENCODERS, Encoder, InstructionEncoder, TwinEncoder
from rtrl_core.initialisation import initialise_orthogonally, initialise_sparsely
from rtrl_core.moments import RunningMoments
from rtrl_core.names import look_up
from rtrl_core.policies import ActionDistribution, QValues
from rtrl_core.rules import LearningRule
from rtrl_core.shapes import Bool, Float, Int, Shaped, Tensor
from rtrl_core.standardise import StandardisedImages


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything that determines the network's parameters. Its parts are known by name, or are one's own."""

    observation_shape: tuple[int, ...]
    layout: str
    """``CHW`` or ``HWC`` images (uint8, or float32 from 0 to 1), or ``vector`` (float32)."""
    actions: ActionDistribution
    encoder: str | type[Encoder] = "impala"
    """A name in ``ENCODERS``, or a class of your own."""
    encoder_options: Any = None
    """An instance of the encoder's ``Options``; ``None`` is their defaults."""
    encoder_init: str = "torch"
    """``torch``: PyTorch's own, as the official code; ``orthogonal``, and ``sparse``, of the heads too: see ``initialisation.py``."""
    features: int = 256
    core: str | DiagonalCell | type[RecurrentCell] | type[Core] = "elstm"
    """See ``build_core``."""
    core_options: Any = None
    """Of a ``RecurrentCell`` or a ``Core``: an instance of its ``Options``; ``None`` is their defaults."""
    num_units: int = 256
    rule: str | LearningRule = "segment"
    layers: int = 1
    across_layers: str = "local"
    """``local`` or ``exact``: see ``build_core``."""
    last_reward: bool = True
    last_action: bool = False
    instruction: bool = False
    heads: str = "policy"
    """``policy``: a distribution over actions, and a value; ``dueling``: a value, and what each action is worth beside it, which are the
    parameters of ``QValues`` (Wang et al. 2016)."""
    head_sizes: tuple[int, ...] = ()
    """Of hidden layers, with rectifiers, in each head."""
    critic: str = "shared"
    """``shared``: policy and value are read off one core; ``separate``: each has an encoder and a core of its own."""
    normalise_outputs: bool = False
    """Layer norm, without parameters, of what each head reads: the outputs of some cells are a hundredth of a feature's size."""
    normalise_observations: bool = False
    """By running moments, which somebody has to keep up (``RunningMoments``); of vectors only."""
    standardise_images: bool = False
    """By fixed moments of each pixel, which somebody has to measure (``StandardisedImages``); of images, for encoders that take them so."""
    scale_rewards: bool = False
    """Whether the moments of returns lie beside the weights, for whoever scales rewards by them; the network itself does not."""


class PolicyOutput(NamedTuple):
    parameters: Float[Tensor, "*batch A"]
    """Of the action distribution."""
    values: Float[Tensor, "*batch"]


class Head(nn.Linear):
    """A last layer, with hidden ones before it if there are any."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        sizes = (inputs, *hidden)
        super().__init__(sizes[-1], outputs)  # pyright: ignore[reportUnknownMemberType]  # of PyTorch's own signature
        layers = [layer for before, size in pairwise(sizes) for layer in (nn.Linear(before, size), nn.ReLU())]
        self.hidden = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.hidden(input))


class PolicyNetwork(nn.Module):
    """Raises ``ValueError`` for an unknown encoder, core or rule, or an encoder that does not fit the observation."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        if spec.heads == "dueling" and spec.critic == "separate":
            raise ValueError(
                "heads=dueling: values and what actions are worth beside them are read off one core, so critic=shared"
            )
        self.spec = spec
        self.distribution = spec.actions
        self.encoder = self._build_encoder()
        self.instruction_encoder = InstructionEncoder() if spec.instruction else None
        networks = 2 if spec.critic == "separate" else 1
        extras = (
            spec.last_reward
            + spec.last_action * self.distribution.encoding_size
            + (self.instruction_encoder.output_size if self.instruction_encoder is not None else 0)
        )
        self.input_size = self.encoder.features + networks * extras
        cores = [
            build_core(
                spec.core,
                self.input_size // networks,
                spec.num_units,
                spec.rule,
                spec.core_options,
                layers=spec.layers,
                across_layers=spec.across_layers,
            )
            for _ in range(networks)
        ]
        self.core: Core = cores[0] if len(cores) == 1 else SideBySideCore(*cores)
        self.policy_head = Head(cores[0].output_size, spec.head_sizes, self.distribution.num_parameters)
        self.value_head = Head(cores[-1].output_size, spec.head_sizes, 1)
        if spec.encoder_init == "sparse":
            initialise_sparsely(self.policy_head)
            initialise_sparsely(self.value_head)
        self.standardised = None
        if spec.standardise_images and spec.layout != "vector" and self._kind_of_encoder().takes_standardised:
            self.standardised = StandardisedImages(spec.observation_shape, spec.layout)
        self.running = nn.ModuleDict()
        if spec.normalise_observations and spec.layout == "vector":
            self.running["observations"] = RunningMoments(math.prod(spec.observation_shape))
        if spec.scale_rewards:
            self.running["returns"] = RunningMoments(1)

    def _kind_of_encoder(self) -> type[Encoder]:
        encoder = self.spec.encoder
        return look_up(ENCODERS, encoder, "encoder") if isinstance(encoder, str) else encoder

    def _build_encoder(self) -> Encoder:
        spec, kind = self.spec, self._kind_of_encoder()

        def build() -> Encoder:
            encoder = kind(spec.observation_shape, spec.layout, spec.features, spec.encoder_options)
            if spec.encoder_init == "orthogonal":
                initialise_orthogonally(encoder)
            if spec.encoder_init == "sparse":
                initialise_sparsely(encoder)
            return encoder

        return TwinEncoder(build(), build()) if spec.critic == "separate" else build()

    @property
    def observation_moments(self) -> RunningMoments | None:
        return self._moments("observations")

    @property
    def return_moments(self) -> RunningMoments | None:
        return self._moments("returns")

    def _moments(self, name: str) -> RunningMoments | None:
        if name not in self.running:
            return None
        moments = self.running[name]
        assert isinstance(moments, RunningMoments)
        return moments

    def trained_by(self, head: str) -> list[nn.Parameter]:
        """The parameters that the output of ``policy_head`` or ``value_head`` depends on, less those that are frozen."""
        encoder, core = self.encoder, self.core
        if isinstance(encoder, TwinEncoder) and isinstance(core, SideBySideCore):
            is_actor = head == "policy_head"
            encoder, core = (encoder.actor, core.actor) if is_actor else (encoder.critic, core.critic)
        mine: list[nn.Module | None] = [encoder, core, self.instruction_encoder, getattr(self, head)]
        found = [parameter for module in mine if module is not None for parameter in module.parameters()]
        return [parameter for parameter in found if parameter.requires_grad]

    def initial_state(self, batch_size: int) -> CoreState:
        return self.core.initial_state(batch_size)

    def encode(self, observation: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B F"]:
        """Features of a batch of observations; autocast applies here and nowhere else. Always float32 or wider."""
        return self._encoded(self.encoder, observation)

    def _encoded(self, encoder: Encoder, observation: Tensor) -> Tensor:
        if (moments := self.observation_moments) is not None:
            observation = moments.normalised(observation.flatten(1)).view(observation.shape)
        if self.standardised is not None:
            observation = self.standardised(observation)
        return encoder(observation).to(self.value_head.weight.dtype)

    def core_inputs(
        self,
        features: Float[Tensor, "B F"],
        last_reward: Float[Tensor, " B"],
        last_action: Shaped[Tensor, "B ..."],
        is_first: Bool[Tensor, " B"],
        instruction: Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """Features beside what happened last. At the first step of an episode nothing has: reward and action are zero there.

        Of two networks side by side, each has its own features and the same of the rest.

        Raises:
            TypeError, ValueError: for an argument of another dtype, shape or device.
        """
        device = self.value_head.weight.device
        expect("features", features, "B F", (None, self.encoder.features), FLOATING, device)
        streams = (features.shape[0],)
        expect("last_reward", last_reward, "B", streams, FLOATING, device)
        expect("last_action", last_action, "B ...", streams, None, device)
        expect("is_first", is_first, "B", streams, torch.bool, device)
        if instruction is not None and self.instruction_encoder is not None:
            expect("instruction", instruction, "B L", (*streams, None), torch.int64, device)
        networks = features.chunk(2, dim=-1) if self.spec.critic == "separate" else (features,)
        return self._joined(networks, last_reward, last_action, is_first, instruction)

    def _joined(
        self,
        networks: Sequence[Tensor],
        last_reward: Tensor,
        last_action: Tensor,
        is_first: Tensor,
        instruction: Tensor | None,
    ) -> Tensor:
        begins, dtype = is_first.unsqueeze(-1), networks[0].dtype
        parts: list[Tensor] = []
        if self.spec.last_reward:
            parts.append(last_reward.to(dtype).unsqueeze(-1).masked_fill(begins, 0))
        if self.spec.last_action:
            parts.append(self.distribution.encode(last_action).to(dtype).masked_fill(begins, 0))
        if self.instruction_encoder is not None:
            if instruction is None:
                raise ValueError("this network reads an instruction, but the environment gave none")
            parts.append(self.instruction_encoder(instruction))
        return torch.cat([part for features in networks for part in (features, *parts)], dim=-1)

    @torch.no_grad()
    def act(
        self, inputs: Float[Tensor, "B D"], cell_state: Any, is_first: Bool[Tensor, " B"]
    ) -> tuple[PolicyOutput, Any]:
        """One step without a graph: policy and value, and the next ``CoreState.cell``. Raises as ``Core.forward``."""
        hidden, cell_state = self.core.step(inputs, cell_state, is_first)
        return self.heads(hidden), cell_state

    def unroll(
        self, inputs: Float[Tensor, "T B D"], state: CoreState, is_first: Bool[Tensor, "T B"]
    ) -> tuple[PolicyOutput, CoreState]:
        """An unroll under autograd, and the state to carry on with. Raises as ``Core.forward``."""
        hidden, state = self.core(inputs, state, is_first)
        return self.heads(hidden), state

    @torch.no_grad()
    def value(
        self,
        observation: Shaped[Tensor, "B ..."],
        last_reward: Float[Tensor, " B"],
        last_action: Shaped[Tensor, "B ..."],
        is_first: Bool[Tensor, " B"],
        instruction: Int[Tensor, "B L"] | None,
        cell_state: Any,
    ) -> Float[Tensor, " B"]:
        """The value alone of the step after ``cell_state``: of a separate critic, half of the work of ``act``."""
        if not (isinstance(self.encoder, TwinEncoder) and isinstance(self.core, SideBySideCore)):
            inputs = self.core_inputs(self.encode(observation), last_reward, last_action, is_first, instruction)
            return self.act(inputs, cell_state, is_first)[0].values
        features = self._encoded(self.encoder.critic, observation)
        inputs = self._joined([features], last_reward, last_action, is_first, instruction)
        hidden, _ = self.core.critic.step(inputs, cell_state[-1], is_first)
        return self._value_of(hidden)

    def heads(self, hidden: Float[Tensor, "*batch H"]) -> PolicyOutput:
        """Policy and value from what the core puts out."""
        actor, critic = hidden.chunk(2, dim=-1) if self.spec.critic == "separate" else (hidden, hidden)
        parameters, values = self.policy_head(self._normed(actor)), self._value_of(critic)
        if self.spec.heads == "dueling":
            parameters = values.unsqueeze(-1) + parameters - parameters.mean(-1, keepdim=True)
            values = parameters.amax(-1)
        return PolicyOutput(parameters, values)

    @torch.no_grad()
    def act_evenly(self) -> None:
        """From here on no action is preferred, whatever it sees."""
        self.policy_head.weight.zero_()
        self.policy_head.bias.zero_()
        if isinstance(self.distribution, QValues):
            self.distribution.epsilon = 1.0

    def _value_of(self, hidden: Tensor) -> Tensor:
        return self.value_head(self._normed(hidden)).squeeze(-1)

    def _normed(self, hidden: Tensor) -> Tensor:
        return functional.layer_norm(hidden, hidden.shape[-1:]) if self.spec.normalise_outputs else hidden
