"""What crosses between processes, and as what: numpy arrays that the object store shares without copying, and small envelopes."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, NamedTuple

import numpy as np
import torch

from actors.worker import C
from rtrl_core import WeightsSnapshot, carried
from rtrl_core.shapes import Float, Tensor


class WireEncoder:
    """Copies a gradient out of the actor. With bfloat16, what rounding loses is added to the next gradient: nothing is lost for good."""

    def __init__(self, wire: str, gradient: Float[Tensor, " parameters"]) -> None:
        self._residual = torch.zeros_like(gradient) if wire == "bfloat16" else None

    def encode(self, gradient: Float[Tensor, " parameters"]) -> Float[Tensor, " parameters"]:
        """A copy on the CPU, owned by the receiver."""
        if self._residual is None:
            return gradient.detach().to("cpu", copy=True)
        exact = self._residual.add_(gradient)
        if not torch.isfinite(exact).all():
            # A broken gradient is shipped as it is, to be refused and named; its error must not outlive it.
            broken = exact.to(torch.bfloat16)
            self._residual.zero_()
            return broken.cpu()
        rounded = exact.to(torch.bfloat16)
        self._residual = exact.sub_(rounded)
        return rounded.cpu()

    def get_state(self) -> dict[str, Any]:
        return {} if self._residual is None else {"residual": self._residual}

    def set_state(self, state: dict[str, Any]) -> None:
        if self._residual is not None and "residual" in state:  # not if actors.wire was another
            self._residual = state["residual"].to(self._residual.device)


class PackedSnapshot(NamedTuple):
    """``WeightsSnapshot`` for the object store, which maps numpy arrays into other processes without a copy."""

    version: int
    layout: str
    array: np.ndarray

    @classmethod
    def pack(cls, snapshot: WeightsSnapshot) -> "PackedSnapshot":
        return cls(snapshot.version, snapshot.layout, snapshot.vector.numpy())

    def unpack(self) -> WeightsSnapshot:
        return WeightsSnapshot(self.version, self.layout, _shared_tensor(self.array))


@dataclass(frozen=True, slots=True)
class Envelope(Generic[C]):
    """A contribution without its tensors: small enough to pass through the driver, which only moves the reference to them."""

    contribution: C
    """Its tensors are empty."""

    def enclose(self, arrays: Mapping[str, np.ndarray]) -> C:
        """The contribution as it was sent; its tensors are views of the arrays."""
        contribution: Any = self.contribution
        tensors = {name: _tensor(array) for name, array in arrays.items()}
        bulk = {
            name: carried.rebuild(structure, [tensors[key] for key in _keys(name, structure)])
            for name, structure in _bulk(contribution).items()
        }
        return replace(contribution, **bulk)


def split(contribution: C) -> tuple[Envelope[C], dict[str, np.ndarray]]:
    """The inverse of ``Envelope.enclose``, for any frozen dataclass with tensors, or named tuples of them, in its fields."""
    message: Any = contribution
    bulk = _bulk(message)
    arrays = {
        key: _array(tensor)
        for name, structure in bulk.items()
        for key, tensor in zip(_keys(name, structure), carried.leaves(structure), strict=True)
    }
    empty = {
        name: carried.map_leaves(lambda tensor: tensor.new_empty([0] * tensor.dim()), structure)
        for name, structure in bulk.items()
    }
    return Envelope(replace(message, **empty)), arrays


def _bulk(message: Any) -> dict[str, carried.Carried]:
    """The fields that are tensors, or named tuples with tensors in them."""
    fields_of = {spec.name: getattr(message, spec.name) for spec in fields(message)}
    return {name: value for name, value in fields_of.items() if _is_bulk(value)}


def _is_bulk(value: Any) -> bool:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return any(_is_bulk(part) for part in value)
    return isinstance(value, Tensor)


def _keys(name: str, structure: carried.Carried) -> list[str]:
    return [f"{name}.{number}" for number, _ in enumerate(carried.leaves(structure))]


def _array(tensor: Tensor) -> np.ndarray:
    """bfloat16, which numpy does not know, travels as uint16."""
    tensor = tensor.detach().cpu()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _tensor(array: np.ndarray) -> Tensor:
    tensor = _shared_tensor(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _shared_tensor(array: np.ndarray) -> Tensor:
    """A view. The memory may be shared and read-only, which torch can only warn about: nobody may write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
