"""The policy network: encoder -> core input -> recurrent core -> output gate -> policy and value heads.

It is used in two ways. Acting goes one step at a time and needs no core gradient: ``encode``, ``core_inputs``, ``act``. Learning
takes the same core inputs as a whole unroll: ``unroll``, under autograd. Both give the same numbers.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from rtrl_core.arguments import FLOATING, expect
from rtrl_core.cells import CELLS, ELSTMCell
from rtrl_core.encoders import (
    Encoder,
    ImpalaEncoder,
    InstructionEncoder,
    MLPEncoder,
    NatureEncoder,
    NoEncoder,
    initialise_orthogonally,
)
from rtrl_core.policies import ActionDistribution
from rtrl_core.recurrent import ELSTM, CoreState
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Int, Shaped, Tensor


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything that determines the network's parameters."""

    observation_shape: tuple[int, ...]
    layout: str
    """``CHW`` or ``HWC`` images (uint8, or float32 from 0 to 1), or ``vector`` (float32)."""
    actions: ActionDistribution
    encoder: str = "impala"
    """``impala``, ``nature``, ``mlp``, or ``none``: the observation itself is the features."""
    encoder_init: str = "torch"
    """``torch``: PyTorch's own, as the official code; ``orthogonal``: see ``initialise_orthogonally``."""
    features: int = 256
    mlp_sizes: tuple[int, ...] = field(default=(64,))
    core: str = "elstm"
    """A name in ``CELLS``, or ``feedforward``: heads directly on the core input."""
    num_units: int = 256
    forget_bias: float = 0.0
    """Of an eLSTM, see ``ELSTMCell``."""
    rule: str = "segment"
    last_reward: bool = True
    last_action: bool = False
    instruction: bool = False


class PolicyOutput(NamedTuple):
    parameters: Float[Tensor, "*batch A"]
    """Of the action distribution."""
    values: Float[Tensor, "*batch"]


class PolicyNetwork(nn.Module):
    """Raises ``ValueError`` for an unknown encoder, core or rule, or an encoder that does not fit the observation."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.distribution = spec.actions
        self.encoder = _encoder(spec)
        if spec.encoder_init == "orthogonal":
            initialise_orthogonally(self.encoder)
        self.instruction_encoder = InstructionEncoder() if spec.instruction else None
        self.input_size = (
            self.encoder.features
            + spec.last_reward
            + spec.last_action * self.distribution.encoding_size
            + (self.instruction_encoder.output_size if self.instruction_encoder is not None else 0)
        )
        if spec.core != "feedforward" and spec.core not in CELLS:
            raise ValueError(f"unknown core {spec.core!r}: expected feedforward or one of {', '.join(CELLS)}")
        cell = ELSTMCell(forget_bias=spec.forget_bias) if spec.core == "elstm" else spec.core
        self.core = None if spec.core == "feedforward" else ELSTM(self.input_size, spec.num_units, spec.rule, cell)
        head_inputs = self.input_size if self.core is None else spec.num_units
        self.policy_head = nn.Linear(head_inputs, self.distribution.num_parameters)
        self.value_head = nn.Linear(head_inputs, 1)

    @property
    def carries_sensitivity(self) -> bool:
        return self.core is not None and self.core.core.rule.carries_sensitivity

    def initial_state(self, batch_size: int) -> CoreState:
        """Zeros; a feed-forward network carries an empty state."""
        if self.core is None:
            return CoreState(self.value_head.weight.new_zeros(batch_size, 0), None)
        return self.core.initial_state(batch_size)

    def encode(self, observation: Shaped[Tensor, "B ..."]) -> Float[Tensor, "B F"]:
        """Features of a batch of observations; autocast applies here and nowhere else. Always float32 or wider."""
        return self.encoder(observation).to(self.value_head.weight.dtype)

    def core_inputs(
        self,
        features: Float[Tensor, "B F"],
        last_reward: Float[Tensor, " B"],
        last_action: Shaped[Tensor, "B ..."],
        is_first: Bool[Tensor, " B"],
        instruction: Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """Features beside what happened last. At the first step of an episode nothing has: reward and action are zero there.

        Raises:
            TypeError, ValueError: for an argument of another dtype, shape or device.
        """
        device = self.value_head.weight.device
        expect("features", features, "B F", (None, self.encoder.features), FLOATING, device)
        streams = (features.shape[0],)
        expect("last_reward", last_reward, "B", streams, FLOATING, device)
        expect("last_action", last_action, "B ...", streams, None, device)
        expect("is_first", is_first, "B", streams, torch.bool, device)
        begins = is_first.unsqueeze(-1)
        parts = [features]
        if self.spec.last_reward:
            parts.append(last_reward.to(features.dtype).unsqueeze(-1).masked_fill(begins, 0))
        if self.spec.last_action:
            parts.append(self.distribution.encode(last_action).to(features.dtype).masked_fill(begins, 0))
        if self.instruction_encoder is not None:
            if instruction is None:
                raise ValueError("this network reads an instruction, but the environment gave none")
            expect("instruction", instruction, "B L", (*streams, None), torch.int64, device)
            parts.append(self.instruction_encoder(instruction))
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def act(
        self, inputs: Float[Tensor, "B D"], cell_state: Float[Tensor, "B N"], is_first: Bool[Tensor, " B"]
    ) -> tuple[PolicyOutput, Float[Tensor, "B N"]]:
        """One step without a graph: policy and value, and the next cell state. Raises as ``DiagonalCore.forward``."""
        if self.core is None:
            self._check_inputs("B", inputs, is_first)
            return self._heads(inputs), cell_state
        hidden, cell_state = self.core.step(inputs, cell_state, is_first)
        return self._heads(hidden), cell_state

    def unroll(
        self,
        inputs: Float[Tensor, "T B D"],
        state: CoreState,
        is_first: Bool[Tensor, "T B"],
        out: Sensitivity | None = None,
    ) -> tuple[PolicyOutput, CoreState]:
        """An unroll under autograd. ``out`` and what is raised: see ``DiagonalCore.forward``."""
        if self.core is None:
            self._check_inputs("T B", inputs, is_first)
            return self._heads(inputs), state
        hidden, state = self.core(inputs, state, is_first, out)
        return self._heads(hidden), state

    def _check_inputs(self, axes: str, inputs: Tensor, is_first: Tensor) -> None:
        """What a recurrent core checks itself."""
        device, batch = self.value_head.weight.device, (None,) * len(axes.split())
        expect("inputs", inputs, f"{axes} D", (*batch, self.input_size), FLOATING, device)
        expect("is_first", is_first, axes, tuple(inputs.shape[:-1]), torch.bool, device)

    def _heads(self, hidden: Tensor) -> PolicyOutput:
        return PolicyOutput(self.policy_head(hidden), self.value_head(hidden).squeeze(-1))


def _encoder(spec: NetworkSpec) -> Encoder:
    shape = spec.observation_shape
    if spec.encoder == "mlp":
        return MLPEncoder(math.prod(shape), spec.mlp_sizes, spec.features)
    if spec.encoder == "none":
        return NoEncoder(math.prod(shape))
    images = {"impala": ImpalaEncoder, "nature": NatureEncoder}
    if spec.encoder not in images:
        raise ValueError(f"unknown encoder {spec.encoder!r}: expected none, mlp or one of {', '.join(images)}")
    if spec.layout == "vector" or len(shape) != 3:
        raise ValueError(
            f"the {spec.encoder} encoder reads images, but the observations have shape {shape}; use network.encoder=mlp"
        )
    return images[spec.encoder]((shape[0], shape[1], shape[2]), spec.layout, spec.features)
