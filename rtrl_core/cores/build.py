"""From what a network asks for to its core: a cell by name or of one's own, under a learning rule, one layer or several."""

from typing import Any, TypeAlias

from rtrl_core.cells import CELLS, RECURRENT_CELLS, DiagonalCell, RecurrentCell
from rtrl_core.cores.averages import AverageCore
from rtrl_core.cores.base import Core
from rtrl_core.cores.cross_layer import CrossLayerStack
from rtrl_core.cores.diagonal import DiagonalCore
from rtrl_core.cores.feedforward import Feedforward
from rtrl_core.cores.gated import GatedCore
from rtrl_core.cores.retention import RetNet
from rtrl_core.cores.stacked import StackedCore
from rtrl_core.cores.unrolled import UnrolledCore
from rtrl_core.names import look_up
from rtrl_core.rules import LearningRule

FEEDFORWARD = "feedforward"
CORES: dict[str, type[Core]] = {"retnet": RetNet, "ema": AverageCore}
"""Whole cores by name."""
ACROSS_LAYERS = ("local", "exact")
Part: TypeAlias = "str | DiagonalCell | type[RecurrentCell] | type[Core]"


def core_names() -> tuple[str, ...]:
    """What ``build_core`` knows by name."""
    return (*CELLS, *RECURRENT_CELLS, *CORES, FEEDFORWARD)


def build_core(
    part: Part,
    input_size: int,
    num_units: int,
    rule: str | LearningRule,
    options: Any = None,
    *,
    layers: int = 1,
    across_layers: str = "local",
) -> Core:
    """
    Args:
        part: a name of ``core_names``; a diagonal cell, which gets the output gate of the eLSTM; the class of any other cell, which
            has an output of its own and is made with ``(input_size, num_units)``; or that of a whole core, made with
            ``(input_size, num_units, rule)``.
        options: an instance of the ``Options`` of a ``RecurrentCell`` or a ``Core``; ``None`` is their defaults.
        layers: how many of it on top of each other, each with ``num_units``; all of them are read.
        across_layers: ``local`` carries each layer's sensitivity of its own parameters (``StackedCore``); ``exact`` of two layers
            also that of the upper one's state by the lower one's parameters (``CrossLayerStack``).

    Raises:
        ValueError: for an unknown name, a rule that does not fit, or layers that do not.
    """
    if across_layers not in ACROSS_LAYERS:
        raise ValueError(f"unknown credit across layers {across_layers!r}: expected one of {', '.join(ACROSS_LAYERS)}")
    if across_layers == "exact" and layers != 2:
        raise ValueError(f"exact credit across layers is for two layers, got {layers}: use two, or credit per layer")
    if layers == 1:
        return _layer(part, input_size, num_units, rule, options)
    if part == FEEDFORWARD or layers < 1:
        raise ValueError(f"a network has at least one layer, and {FEEDFORWARD} just one, got {layers} of {part}")
    stack = [_layer(part, input_size, num_units, rule, options)]
    while len(stack) < layers:
        stack.append(_layer(part, stack[-1].output_size, num_units, rule, options))
    return CrossLayerStack(*stack) if across_layers == "exact" else StackedCore(stack)


def _layer(part: Part, input_size: int, num_units: int, rule: str | LearningRule, options: Any) -> Core:
    if part == FEEDFORWARD:
        return Feedforward(input_size)
    if isinstance(part, str):
        name = look_up({name: name for name in core_names()}, part, "core")
        part = CELLS[name]() if name in CELLS else {**RECURRENT_CELLS, **CORES}[name]
    if isinstance(part, DiagonalCell):
        return GatedCore(DiagonalCore(input_size, num_units, part, rule))
    with_options = () if options is None else (options,)  # a part that has none need not take any
    if issubclass(part, RecurrentCell):
        return UnrolledCore(part(input_size, num_units, *with_options), rule)
    return part(input_size, num_units, rule, *with_options)  # pyright: ignore[reportCallIssue]
