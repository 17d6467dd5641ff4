"""Recurrent cells by name: diagonal ones, whose units see themselves only, and ``RecurrentCell``, any other."""

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.cells.elstm import ELSTMCell
from rtrl_core.cells.gru import GRUCell
from rtrl_core.cells.indrnn import IndRNNCell
from rtrl_core.cells.lru import LRUCell
from rtrl_core.cells.lstm import LSTMCell, LSTMState
from rtrl_core.cells.mingru import MinGRUCell
from rtrl_core.cells.minlstm import MinLSTMCell
from rtrl_core.cells.recurrent import RecurrentCell
from rtrl_core.cells.rglru import RGLRUCell
from rtrl_core.cells.rtu import LinearRTUCell, RTUCell
from rtrl_core.cells.slstm import SLSTMCell
from rtrl_core.cells.unitwise import GateGroup, UnitwiseCell

CELLS: dict[str, type[DiagonalCell]] = {
    "elstm": ELSTMCell,
    "indrnn": IndRNNCell,
    "mingru": MinGRUCell,
    "minlstm": MinLSTMCell,
    "slstm": SLSTMCell,
    "rglru": RGLRUCell,
    "lru": LRUCell,
    "rtu": RTUCell,
    "linear_rtu": LinearRTUCell,
}

RECURRENT_CELLS: dict[str, type[RecurrentCell]] = {"lstm": LSTMCell, "gru": GRUCell}

__all__ = [
    "CELLS",
    "RECURRENT_CELLS",
    "DiagonalCell",
    "ELSTMCell",
    "GRUCell",
    "GateGroup",
    "IndRNNCell",
    "LRUCell",
    "LSTMCell",
    "LSTMState",
    "LinearRTUCell",
    "LocalDerivatives",
    "MinGRUCell",
    "MinLSTMCell",
    "RGLRUCell",
    "RTUCell",
    "RecurrentCell",
    "SLSTMCell",
    "UnitwiseCell",
]
