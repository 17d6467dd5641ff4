"""Recurrent cells by name: diagonal ones, whose units see themselves only, and ``RecurrentCell``, any other."""

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.cells.elstm import ELSTMCell
from rtrl_core.cells.gru import GRUCell
from rtrl_core.cells.indrnn import IndRNNCell
from rtrl_core.cells.lstm import LSTMCell, LSTMState
from rtrl_core.cells.mingru import MinGRUCell
from rtrl_core.cells.recurrent import RecurrentCell
from rtrl_core.cells.unitwise import GateGroup, UnitwiseCell

CELLS: dict[str, type[DiagonalCell]] = {"elstm": ELSTMCell, "indrnn": IndRNNCell, "mingru": MinGRUCell}

RECURRENT_CELLS: dict[str, type[RecurrentCell]] = {"lstm": LSTMCell, "gru": GRUCell}

__all__ = [
    "CELLS",
    "RECURRENT_CELLS",
    "DiagonalCell",
    "ELSTMCell",
    "GRUCell",
    "GateGroup",
    "IndRNNCell",
    "LSTMCell",
    "LSTMState",
    "LocalDerivatives",
    "MinGRUCell",
    "RecurrentCell",
    "UnitwiseCell",
]
