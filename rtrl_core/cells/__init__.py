"""Recurrent cells: those by name are diagonal; any other is a ``RecurrentCell``."""

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.cells.elstm import ELSTMCell
from rtrl_core.cells.indrnn import IndRNNCell
from rtrl_core.cells.mingru import MinGRUCell
from rtrl_core.cells.recurrent import RecurrentCell

CELLS: dict[str, type[DiagonalCell]] = {"elstm": ELSTMCell, "indrnn": IndRNNCell, "mingru": MinGRUCell}

__all__ = ["CELLS", "DiagonalCell", "ELSTMCell", "IndRNNCell", "LocalDerivatives", "MinGRUCell", "RecurrentCell"]
