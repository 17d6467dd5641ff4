"""Work on a device that is done once as it is, then recorded, and from then on done again: what a CUDA graph is, and when there is one."""

import warnings
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch

from rtrl_core import carried
from rtrl_core.recording import recording

R = TypeVar("R")


@runtime_checkable
class Graph(Protocol):
    """Work on a device that can be done again."""

    def prepare(self, work: Callable[[], R]) -> R:
        """Does ``work`` as it is, so that libraries can prepare themselves.

        Raises:
            RuntimeError: for work that has the host read a number; it may have been done in part.
        """
        ...

    def record(self, work: Callable[[], R]) -> R:
        """Does nothing but note what ``work`` would do. Its results mean something after each ``replay``, until the next."""
        ...

    def replay(self) -> None: ...


class CUDAGraph:
    def __init__(self, device: torch.device) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._device = device

    def prepare(self, work: Callable[[], R]) -> R:
        # Here, because torch does not recover from a stream that could not capture: its generator is of no use afterwards.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode")
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
        try:
            with recording():
                return work()
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def record(self, work: Callable[[], R]) -> R:
        # A stream of the device itself: torch's own for this is of whichever device was the first.
        with torch.cuda.device(self._device), recording(), torch.cuda.graph(self._graph, stream=torch.cuda.Stream()):
            return work()

    def replay(self) -> None:
        self._graph.replay()


GRAPHS: dict[str, Callable[[torch.device], Graph]] = {"cuda": CUDAGraph}
"""By the type of the device."""


class NotRecordableError(RuntimeError):
    """The network does something that a graph cannot do again. The message says what."""


class Recorded(Generic[R]):
    """Work that is done for the first time as it is, so that libraries can prepare themselves, and as a graph from then on."""

    def __init__(self, device: torch.device, work: Callable[[], R]) -> None:
        self._work = work
        self._graph = GRAPHS[device.type](device)
        self._is_prepared = False
        self._results: tuple[R] | None = None

    @property
    def is_graph(self) -> bool:
        return self._results is not None

    def __call__(self) -> R:
        """Results are overwritten by the next call.

        Raises:
            NotRecordableError: the first or second time. The work may have been done in part.
            torch.OutOfMemoryError: likewise.
        """
        try:
            if not self._is_prepared:
                self._is_prepared = True
                return self._graph.prepare(self._work)
            if self._results is None:
                self._results = (self._graph.record(self._work),)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise NotRecordableError(str(error).partition("\n")[0]) from error
        self._graph.replay()
        return self._results[0]


def copy_in(given: carried.Carried, to: carried.Carried) -> None:
    for source, target in zip(carried.leaves(given), carried.leaves(to), strict=True):
        target.copy_(source)
