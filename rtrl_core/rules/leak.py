"""The leak of a unit alone: e-prop (Bellec et al. 2020) and RFLO (Murray 2019), by segments.

As SnAp-1, but a unit's own gates do not see its past either: of the block ``A_t`` only the path remains on which a unit keeps its state
with its gate inputs held fixed. For an LSTM that is ``c_t = f_t c_{t-1}`` and what ``h_t`` shows of it, for a GRU ``h_t = z_t h_{t-1}``.
What is carried is then an eligibility trace. Published forms approximate ``dL/ds`` too; here that is exact inside the unroll.
"""

from dataclasses import dataclass
from typing import ClassVar

from rtrl_core.cells.base import LocalDerivatives
from rtrl_core.cells.unitwise import UnitwiseCell
from rtrl_core.rules.snap1 import SnAp1Rule
from rtrl_core.shapes import Float, Tensor


@dataclass(frozen=True, slots=True)
class LeakRule(SnAp1Rule):
    """``S_t = (forget path) S_{t-1} + g_t [x_t, h_{t-1}, 1]^T``."""

    name: ClassVar[str] = "leak"

    def recurrence(self, cell: UnitwiseCell, local: LocalDerivatives) -> Float[Tensor, "T B M M N"]:
        del cell
        return local.state.clone()
