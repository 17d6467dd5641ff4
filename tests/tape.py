"""A stand-in for CUDA graphs on a CPU: the calls of torch's operators that a function makes are taped, and made again without it.

As of a graph: nothing has happened while it is recorded, results lie at the same place each time, Python runs once, and what would have
the host look at a number is an error. Operators are the real ones, and so are the numbers. It is kinder in what only a second
device makes an error: constants that come from the host, and results that go there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from rtrl_core.recording import recording

HOST_READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero", "_assert_async")


class Call(NamedTuple):
    operator: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: list[torch.Tensor]
    """Memory of its own; views and what is written in place are not among them."""


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """What was there of memory that is written to, by its place."""
        self.mine: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2].rstrip("_")
        if name in HOST_READS or any(_has_boolean_index(func, args)):
            raise RuntimeError(f"operation not permitted when a stream is capturing: {func}")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            self._remember(argument, value)
        for argument in func._schema.arguments:
            if argument.name in kwargs:
                self._remember(argument, kwargs[argument.name])
        given = {place(t) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **kwargs)
        own = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and place(t) not in given]
        self.mine |= {place(t) for t in own}
        # By their data: a graph that runs is no change that autograd would count.
        taped = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.data, (args, kwargs, own))
        self.calls.append(Call(func, *taped))
        return result

    def _remember(self, argument: Any, value: Any) -> None:
        if argument.alias_info is None or not argument.alias_info.is_write:
            return
        for tensor in pytree.tree_leaves(value):
            if isinstance(tensor, torch.Tensor) and place(tensor) not in self.mine | self.before.keys():
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.before[place(tensor)] = (whole, whole.clone())


def _has_boolean_index(func: Any, args: Any) -> list[bool]:
    if (
        not func._schema.name.startswith(("aten::index", "aten::_index_put"))
        or len(args) < 2
        or not isinstance(args[1], list | tuple)
    ):
        return []
    return [isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]]


def place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)


class Tape:
    """See ``actors.graphs.Graph``."""

    def __init__(self, device: torch.device | None = None) -> None:
        del device

    def prepare(self, function: Callable[[], Any]) -> Any:
        with recording(), _Recorder():
            return function()

    def record(self, function: Callable[[], Any]) -> Any:
        recorder = _Recorder()
        try:
            with recording(), recorder:
                result = function()
        finally:
            for whole, before in recorder.before.values():
                whole.copy_(before)
        self._calls = recorder.calls
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for call in self._calls:
            result = call.operator(*call.arguments, **call.options)
            given = {
                place(t) for t in pytree.tree_leaves((call.arguments, call.options)) if isinstance(t, torch.Tensor)
            }
            fresh = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and place(t) not in given]
            for kept, new in zip(call.results, fresh, strict=True):
                kept.copy_(new)
