"""From the host to a device, step after step: what an environment or an actor has left in ordinary memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rtrl_core.shapes import Shaped, Tensor

ALIGNMENT = 16
"""Bytes at whose multiples a tensor begins, as kernels that read several numbers at once want it."""
BUFFERS = 2
"""While one is on its way, the next is filled."""


class Place(NamedTuple):
    """Of one tensor in a buffer of bytes."""

    first: int
    size: int
    dtype: torch.dtype
    shape: torch.Size

    def of(self, buffer: Shaped[Tensor, " bytes"]) -> Tensor:
        return buffer[self.first : self.first + self.size].view(self.dtype).view(self.shape)


class Upload:
    """Tensors on a device. To a CUDA device all of them travel together, out of page-locked memory, while the host goes on, two
    such at a time; on a CPU they are those that were given."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._together: _Together | None = None

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Elsewhere than on a CPU the result is memory of its own, and the tensors given may be written to as soon as this returns."""
        if self._device.type != "cuda":
            return [tensor.to(self._device) for tensor in tensors]
        if self._together is None or not self._together.fits(tensors):
            self._together = _Together(tensors, self._device)
        return self._together.copied(tensors)


class _Together:
    """Tensors of given types and shapes, one after the other in one buffer."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        self._device = device
        self._places: list[Place] = []
        self._size = 0
        for tensor in tensors:
            self._places.append(Place(self._size, tensor.nbytes, tensor.dtype, tensor.shape))
            self._size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self._staged = [self._page_locked() for _ in range(BUFFERS)]
        self._turn = 0

    def _page_locked(self) -> "tuple[list[Tensor], Tensor, torch.cuda.Event | None]":
        is_cuda = self._device.type == "cuda"
        buffer = torch.empty(self._size, dtype=torch.uint8, pin_memory=is_cuda)
        return [place.of(buffer) for place in self._places], buffer, torch.cuda.Event() if is_cuda else None

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        return [(place.dtype, place.shape) for place in self._places] == [(t.dtype, t.shape) for t in tensors]

    def copied(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        parts, buffer, sent = self._staged[self._turn]
        self._turn = (self._turn + 1) % BUFFERS
        if sent is not None:
            sent.synchronize()
        for part, tensor in zip(parts, tensors, strict=True):
            part.copy_(tensor)
        there = torch.empty_like(buffer, device=self._device, pin_memory=False)
        there.copy_(buffer, non_blocking=True)
        if sent is not None:
            sent.record(torch.cuda.current_stream(self._device))
        return [place.of(there) for place in self._places]
