"""Recurrent cells: those by name are diagonal; any other is a ``RecurrentCell``."""

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.cells.elstm import ELSTMCell
from rtrl_core.cells.indrnn import IndRNNCell
from rtrl_core.cells.lru import LRUCell
from rtrl_core.cells.mingru import MinGRUCell
from rtrl_core.cells.minlstm import MinLSTMCell
from rtrl_core.cells.recurrent import RecurrentCell
from rtrl_core.cells.rglru import RGLRUCell
from rtrl_core.cells.rtu import LinearRTUCell, RTUCell
from rtrl_core.cells.slstm import SLSTMCell

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

__all__ = [
    "CELLS",
    "DiagonalCell",
    "ELSTMCell",
    "IndRNNCell",
    "LRUCell",
    "LinearRTUCell",
    "LocalDerivatives",
    "MinGRUCell",
    "MinLSTMCell",
    "RGLRUCell",
    "RTUCell",
    "RecurrentCell",
    "SLSTMCell",
]
