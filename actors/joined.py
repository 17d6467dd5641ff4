"""One backward pass for several forward passes, without doing those again.

While it acts, a stem sees the rows of one step. Going back over the rows of several steps at once is cheaper, because each backward pass
reads every weight and writes every weight's gradient. So what a forward pass keeps for its way back is kept apart from autograd's graph
here. The graph of so many rows is recorded once; it is given what was kept, joined, in the place of its own:

    acting      step -> forward pass -> its output, and what it keeps: x_1, x_2, ...
    learning    of k steps of B rows: the graph of k B rows, whose n-th tensor is the cat of the steps' x_n

What a pass keeps may be its rows, one after the other along the first axis, or the same whatever the rows are, as weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.autograd.graph import saved_tensors_hooks

from rtrl_core.shapes import Float, Tensor

S = TypeVar("S")


class Pass(NamedTuple):
    """One forward pass."""

    output: Float[Tensor, "R D"]
    kept: list[Tensor]


class JoinedPasses(Generic[S]):
    """The forward pass of a network whose weights may change in place between one ``backward`` and the next ``forward``.

    Args:
        run: a forward pass under autograd. No row of its output depends on another row of what it is given.
        blank: so many rows that say nothing, to record graphs with.
    """

    def __init__(self, run: Callable[[S], Float[Tensor, "R D"]], blank: Callable[[int], S]) -> None:
        self._run, self._blank = run, blank
        self._graphs: dict[int, _Graph] = {}
        self._grows = _growing(self.forward(blank(2)).kept, 2, self.forward(blank(3)).kept, 3)

    def can_join(self, parameters: Sequence[Tensor], examples: Sequence[S]) -> bool:
        """Whether joined passes over these examples give these parameters the gradient that they give one by one.

        It is not so where a network keeps things in ways unknown here, or past autograd: then a graph goes back over the blank rows that
        it was recorded with, which no example may be. Gradients that are there stay as they are.
        """
        if self._grows is None:
            return False
        before = taken_gradients(parameters)
        passes = [self.forward(example) for example in examples]
        upstream = [torch.linspace(-1, 1, made.numel(), device=made.device).view_as(made) for made, _ in passes]
        self.backward(passes, torch.cat(upstream))
        joined = taken_gradients(parameters)
        for example, gradient in zip(examples, upstream, strict=True):
            backpropagate(self._run(example), gradient)
        apart = taken_gradients(parameters)
        for parameter, gradient in zip(parameters, before, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(gradient)
        return any(bool(gradient.any()) for gradient in apart) and all(map(agree, joined, apart))

    def forward(self, given: S) -> Pass:
        kept: list[Tensor] = []
        with saved_tensors_hooks(lambda tensor: kept.append(tensor.detach()), _never):
            output = self._run(given)
        return Pass(output.detach(), kept)

    def backward(self, passes: Sequence[Pass], gradient: Float[Tensor, "R D"]) -> None:
        """Adds to the parameters' gradients what follows from that of the outputs of these passes, one after the other."""
        assert self._grows is not None
        if len(gradient) not in self._graphs:
            self._graphs[len(gradient)] = _Graph(self._run, self._blank(len(gradient)), self._grows)
        self._graphs[len(gradient)].backward(passes, gradient)


class _Graph:
    """Of a number of rows, without what it keeps."""

    def __init__(self, run: Callable[[S], Tensor], blank: S, grows: Sequence[bool]) -> None:
        self._passes: list[Pass] = []
        passes, count = self._passes, iter(range(len(grows)))

        def join(number: int) -> Tensor:
            """Names nothing that holds the graph: a graph that held itself would never be freed."""
            if not grows[number] or len(passes) == 1:
                return passes[0].kept[number]
            return torch.cat([kept[number] for _, kept in passes])

        with saved_tensors_hooks(lambda _: next(count), join):
            self._output = run(blank)

    def backward(self, passes: Sequence[Pass], gradient: Tensor) -> None:
        self._passes[:] = passes
        backpropagate(self._output, gradient, retain_graph=True)
        self._passes.clear()


def backpropagate(output: Float[Tensor, "R D"], gradient: Float[Tensor, "R D"], *, retain_graph: bool = False) -> None:
    """Adds what follows from the output's gradient to the parameters'.

    As the gradient of a number: given one of a tensor, torch imports its symbolic shapes, and with them sympy.
    """
    (output * gradient).sum().backward(retain_graph=retain_graph)


def _never(kept: Any) -> Tensor:
    raise AssertionError("this graph is never gone back over")


def _growing(few: Sequence[Tensor], rows: int, more: Sequence[Tensor], more_rows: int) -> list[bool] | None:
    """Which of what is kept has an entry, or several, for every row; ``None`` if it is kept in another way.

    Lists of bytes are what libraries have packed for themselves: nobody else knows what is in them.
    """
    if len(few) != len(more):
        return None
    grows = []
    for one, other in zip(few, more, strict=True):
        if one.dtype == torch.uint8 and one.dim() == 1:
            return None
        grows.append(one.shape != other.shape)
        if not grows[-1]:
            continue
        per_row, rest = divmod(one.shape[0], rows) if one.dim() else (0, 1)
        if rest or one.shape[1:] != other.shape[1:] or other.shape[0] != per_row * more_rows:
            return None
    return grows


def taken_gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Copies, zero for ``None``; afterwards they are zero."""
    taken = []
    for parameter in parameters:
        grad = parameter.grad
        taken.append(torch.zeros_like(parameter) if grad is None else grad.clone())
        if grad is not None:
            grad.zero_()
    return taken


def agree(joined: Tensor, apart: Tensor) -> bool:
    """Up to the rounding of either, also of 8 bits."""
    largest = float(apart.abs().max()) if apart.numel() else 0.0
    return bool((joined - apart).abs().le(0.05 * largest + torch.finfo(torch.float32).tiny).all())
