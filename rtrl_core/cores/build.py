"""From what a network asks for to its core: a cell by name or of one's own, under a learning rule."""

from typing import Any

from rtrl_core.cells import CELLS, RECURRENT_CELLS, DiagonalCell, RecurrentCell
from rtrl_core.cores.base import Core
from rtrl_core.cores.diagonal import DiagonalCore
from rtrl_core.cores.feedforward import Feedforward
from rtrl_core.cores.gated import GatedCore
from rtrl_core.cores.unrolled import UnrolledCore
from rtrl_core.names import look_up
from rtrl_core.rules import LearningRule

FEEDFORWARD = "feedforward"


def core_names() -> tuple[str, ...]:
    """What ``build_core`` knows by name."""
    return (*CELLS, *RECURRENT_CELLS, FEEDFORWARD)


def build_core(
    part: "str | DiagonalCell | type[RecurrentCell] | type[Core]",
    input_size: int,
    num_units: int,
    rule: str | LearningRule,
    options: Any = None,
) -> Core:
    """
    Args:
        part: a name of ``core_names``; a diagonal cell, which gets the output gate of the eLSTM; the class of any other cell, which
            has an output of its own and is made with ``(input_size, num_units)``; or that of a whole core, made with
            ``(input_size, num_units, rule)``.
        options: an instance of the ``Options`` of a ``RecurrentCell``; ``None`` is their defaults.

    Raises:
        ValueError: for an unknown name, or a rule that does not fit.
    """
    if part == FEEDFORWARD:
        return Feedforward(input_size)
    if isinstance(part, str):
        name = look_up({name: name for name in core_names()}, part, "core")
        part = RECURRENT_CELLS[name] if name in RECURRENT_CELLS else CELLS[name]()
    if isinstance(part, DiagonalCell):
        return GatedCore(DiagonalCore(input_size, num_units, part, rule))
    if issubclass(part, RecurrentCell):
        with_options = () if options is None else (options,)  # a cell that has none need not take any
        return UnrolledCore(part(input_size, num_units, *with_options), rule)
    return part(input_size, num_units, rule)  # pyright: ignore[reportCallIssue]
