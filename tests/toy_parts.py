"""Parts of a user's own, as small as can be: two dense cells, full RTRL for them, a diagonal cell, an encoder, an algorithm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from actors.actor import Actor, build_actor
from actors.worker import ActorIdentity
from conf.schema import TrainConfig
from envs.base import EnvSpec
from learner.algorithms import Algorithm
from learner.learner import GradientPlan
from rtrl_core import (
    DiagonalCell,
    Encoder,
    GradientContribution,
    ParameterLayout,
    RecurrentCell,
    UnitwiseCell,
    UnrolledRule,
    carried,
)
from rtrl_core.cells import GateGroup


class TwoStates(NamedTuple):
    hidden: torch.Tensor
    slow: torch.Tensor


class DenseCell(RecurrentCell):
    """Every unit sees every other, and each has a second, slower state."""

    def __init__(self, input_size: int, num_units: int) -> None:
        super().__init__(input_size, num_units)
        self.inside = nn.Linear(num_units, num_units, bias=False)
        self.outside = nn.Linear(input_size + num_units, num_units)

    def zeros(self, batch_size: int) -> TwoStates:
        empty = self.inside.weight.new_zeros(batch_size, self.num_units)
        return TwoStates(empty, empty.clone())

    def forward(self, inputs: torch.Tensor, state: TwoStates) -> TwoStates:
        hidden = torch.tanh(self.inside(state.hidden) + self.outside(torch.cat([inputs, state.slow], -1)))
        return TwoStates(hidden, 0.9 * state.slow + 0.1 * hidden.square())

    def output(self, state: TwoStates) -> torch.Tensor:
        return state.hidden


@dataclass(frozen=True, slots=True)
class FullRTRL(UnrolledRule[torch.Tensor]):
    """The whole Jacobian ``ds/dtheta`` of any cell, ``[B, states, parameters]``, step by step: for cells of a few units."""

    name: ClassVar[str] = "full"
    carries_sensitivity: ClassVar[bool] = True

    scale: float = 1.0
    """Of the credit for the past: 1 is right."""

    def initial(self, cell: RecurrentCell, batch_size: int) -> torch.Tensor:
        flat = _flat(cell.zeros(batch_size))
        return flat.new_zeros(*flat.shape, sum(parameter.numel() for parameter in cell.parameters()))

    def advance(self, cell: RecurrentCell, inputs, state, is_first, sensitivity: torch.Tensor) -> torch.Tensor:
        parameters = {name: parameter.detach() for name, parameter in cell.named_parameters()}

        def following(parameters: Mapping[str, torch.Tensor], flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            one = _structured(state, flat.unsqueeze(0))
            return _flat(functional_call(cell, dict(parameters), (x.unsqueeze(0), one)))[0]

        by_state = vmap(jacrev(following, argnums=1), in_dims=(None, 0, 0))
        by_parameters = vmap(jacrev(following, argnums=0), in_dims=(None, 0, 0))
        now = _flat(state)
        for x, first in zip(inputs, is_first, strict=True):
            now = torch.where(first[:, None], 0, now)
            sensitivity = torch.where(first[:, None, None], 0, sensitivity)
            direct = by_parameters(parameters, now, x)
            direct = torch.cat([direct[name].flatten(2) for name in parameters], -1)
            sensitivity = by_state(parameters, now, x) @ sensitivity + direct
            now = vmap(following, in_dims=(None, 0, 0))(parameters, now, x)
        return sensitivity

    def credit(self, cell: RecurrentCell, adjoint: Any, sensitivity: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = self.scale * torch.einsum("bs,bsp->p", _flat(adjoint), sensitivity)
        parameters = list(cell.parameters())
        parts = flat.split([parameter.numel() for parameter in parameters])
        return tuple(part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True))


def _flat(state: Any) -> torch.Tensor:
    return torch.cat([tensor.flatten(1) for tensor in carried.leaves(state)], -1)


def _structured(example: Any, flat: torch.Tensor) -> Any:
    tensors = list(carried.leaves(example))
    parts = flat.split([tensor[0].numel() for tensor in tensors], -1)
    return carried.rebuild(
        example, [part.reshape(-1, *tensor.shape[1:]) for part, tensor in zip(parts, tensors, strict=True)]
    )


class PlainRNN(UnitwiseCell):
    """``h_t = tanh(W [x_t, h_{t-1}, 1])``: dense, and each parameter feeds one unit."""

    num_states: ClassVar[int] = 1
    groups: ClassVar[tuple[GateGroup, ...]] = (GateGroup(("input",)),)

    def zeros(self, batch_size: int) -> torch.Tensor:
        return self.matrices[0].new_zeros(batch_size, self.num_units)

    def update(self, rows: tuple[torch.Tensor, ...], gates: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.tanh(gates[0]),)


@dataclass(frozen=True, slots=True)
class LeakCell(DiagonalCell):
    """``c_t = leak * c_{t-1} + W x_t + b``: a diagonal cell in three lines."""

    gate_names: ClassVar[tuple[str, ...]] = ("input",)
    vector_names: ClassVar[tuple[str, ...]] = ("bias",)

    leak: float = 0.9

    def forward(self, state: torch.Tensor, gates: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return self.leak * state + gates[..., 0, :] + vectors[..., 0, :]

    def initialise(self, matrices: torch.Tensor, vectors: torch.Tensor) -> None:
        with torch.no_grad():
            matrices.normal_(std=0.1)
            vectors.zero_()


@dataclass(frozen=True, slots=True)
class ScaledOptions:
    scale: float = 1.0


class ScaledEncoder(Encoder):
    """One linear layer, times an option."""

    Options: ClassVar[type] = ScaledOptions

    def __init__(self, shape: tuple[int, ...], layout: str, features: int, options: Any = None) -> None:
        super().__init__(shape, layout, features, options)
        self.layer = nn.Linear(shape[0], features)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.options.scale * self.layer(observation.float())


class SignedActor(Actor):
    """Ships the sign of each gradient."""

    def unroll(self, weights):
        contribution = super().unroll(weights)
        contribution.gradient.sign_()
        return contribution


@dataclass(frozen=True, slots=True)
class SignedGradients(Algorithm[GradientContribution]):
    """Its actors and its learner's steps are its own, everything else is the program's."""

    name: ClassVar[str] = "signed"

    batch: int = 8

    def worker(self, config: TrainConfig, identity: ActorIdentity, state: dict[str, Any] | None) -> Actor:
        return build_actor(config, identity, state, actor=SignedActor)

    def plan(self, config: TrainConfig, spec: EnvSpec, layout: ParameterLayout) -> GradientPlan:
        return GradientPlan(config.learner, layout, self.batch, config.total_steps)
