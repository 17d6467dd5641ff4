"""All parameters of a network as one flat vector, and all gradients as another: what crosses the wire and what the optimizer sees.

The parameters of the module become views of the vector, so loading weights is one copy and a gradient needs none. Convolution
weights lie channels-last in it, the format they are used in.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from rtrl_core.shapes import Float, Tensor

ALIGNMENT = 16
"""Parameters start at multiples of this many numbers (64 bytes in float32), as vectorised kernels like them."""

PARTS: dict[str, tuple[str, ...]] = {
    "stem": ("encoder.", "instruction_encoder."),
    "core": ("core.",),
    "heads": ("",),
}
"""Groups of parameters whose gradient norms are watched separately, by the prefix of their names. The first that fits counts, and
the last fits every name: no parameter is in none of them."""


@dataclass(frozen=True, slots=True)
class ParameterSlot:
    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel()

    def view(self, vector: Float[Tensor, " parameters"]) -> Tensor:
        """This parameter inside a flat vector; four-dimensional ones are stored channels-last."""
        flat = vector[self.offset : self.offset + self.size]
        if len(self.shape) != 4:
            return flat.view(self.shape)
        outputs, inputs, height, width = self.shape
        return flat.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class ParameterLayout:
    """Where each parameter lies. Two networks can exchange vectors if and only if their fingerprints are equal."""

    slots: tuple[ParameterSlot, ...]
    size: int

    @classmethod
    def of(cls, module: nn.Module) -> "ParameterLayout":
        slots: list[ParameterSlot] = []
        offset = 0
        for name, parameter in module.named_parameters():
            slots.append(ParameterSlot(name, tuple(parameter.shape), offset))
            offset += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        return cls(tuple(slots), offset)

    @property
    def fingerprint(self) -> str:
        text = ";".join(f"{slot.name}{list(slot.shape)}@{slot.offset}" for slot in self.slots)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def parts(self) -> dict[str, list[ParameterSlot]]:
        """The slots of each of ``PARTS``; each slot is in exactly one."""
        parts: dict[str, list[ParameterSlot]] = {part: [] for part in PARTS}
        for slot in self.slots:
            parts[next(part for part, prefixes in PARTS.items() if slot.name.startswith(prefixes))].append(slot)
        return parts


class FlatParameters:
    """A module's parameters and gradients, moved into two flat vectors (in place: the module goes on working).

    Float32 or wider, on the device that the module is on. Move the module before, not after.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        self.layout = ParameterLayout.of(module)
        example = next(iter(parameters.values()))
        self.vector = torch.zeros(self.layout.size, dtype=example.dtype, device=example.device)
        self.gradient = torch.zeros_like(self.vector)
        for slot in self.layout.slots:
            parameter = parameters[slot.name]
            with torch.no_grad():
                slot.view(self.vector).copy_(parameter)
            parameter.data = slot.view(self.vector)
            if parameter.requires_grad:
                parameter.grad = slot.view(self.gradient)

    def load(self, vector: Float[Tensor, " parameters"]) -> None:
        """Overwrites all weights.

        Raises:
            ValueError: if the vector is of another network.
        """
        if vector.shape != self.vector.shape:
            raise ValueError(
                f"expected {self.vector.numel()} parameters, got {vector.numel()}: weights of another network"
            )
        self.vector.copy_(vector)
