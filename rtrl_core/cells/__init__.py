"""Diagonal recurrent cells by name."""

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.cells.elstm import ELSTMCell
from rtrl_core.cells.indrnn import IndRNNCell
from rtrl_core.cells.mingru import MinGRUCell

CELLS: dict[str, type[DiagonalCell]] = {"elstm": ELSTMCell, "indrnn": IndRNNCell, "mingru": MinGRUCell}

__all__ = ["CELLS", "DiagonalCell", "ELSTMCell", "IndRNNCell", "LocalDerivatives", "MinGRUCell"]
