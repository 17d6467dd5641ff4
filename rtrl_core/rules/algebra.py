"""What the rules need of the algebra of a cell, whether its units have one number of state or several."""

from typing import Protocol, runtime_checkable

from rtrl_core.cells.base import DiagonalCell, LocalDerivatives
from rtrl_core.rules import blocks, single
from rtrl_core.rules.scan import ParameterGradients
from rtrl_core.rules.starts import Starts
from rtrl_core.sensitivity import Sensitivity
from rtrl_core.shapes import Bool, Float, Tensor


@runtime_checkable
class Algebra(Protocol):
    """Two modules: ``single`` and ``blocks``. ``M`` is left out of their shapes where it is one."""

    def adjoints(
        self, immediate: Float[Tensor, "T B ... N"], recurrence: Tensor, starts: Starts, /
    ) -> tuple[Tensor, Tensor]:
        """``lam_{t,j} = e_{t,j} + sum_m A_{t+1}[m,j] lam_{t+1,m}`` and, in the same way, ``lam_0``; returns ``([T B M N], [B M N])``.

        Nothing crosses a start: before one, ``lam_t = e_t`` whatever comes after.
        """
        ...

    def gate_adjoints(self, adjoint: Tensor, local: LocalDerivatives, /) -> Float[Tensor, "T B K N"]:
        """``sum_m lam_{t,m} g_{k,m,t}``: the adjoint of the gate inputs."""
        ...

    def vector_gradients(self, adjoint: Tensor, local: LocalDerivatives, /) -> Float[Tensor, "P N"]:
        """``sum_{t,b,m} lam_{t,m} q_{p,m,t}``."""
        ...

    def step(
        self, sensitivity: Sensitivity, local: LocalDerivatives, inputs: Tensor, is_first: Bool[Tensor, " B"], /
    ) -> Sensitivity:
        """One step of the recursion, ``S_m = sum_j A[m,j] S_j + g_m x^T``; ``local`` holds one step. Slow and obvious."""
        ...

    def advance(
        self, sensitivity: Sensitivity, local: LocalDerivatives, inputs: Tensor, starts: Starts, out: Sensitivity, /
    ) -> None:
        """``S_T`` from ``S_0`` into ``out``, which may be ``sensitivity`` itself."""
        ...

    def contract(
        self, cell: DiagonalCell, adjoint: Tensor, sensitivity: Sensitivity, starts: Starts | None, /
    ) -> ParameterGradients:
        """``sum_{b,m} lam_{b,m} S_{b,m}``: what the past contributes to the gradient. Streams that begin at step 0 have none."""
        ...

    def contract_and_advance(
        self,
        cell: DiagonalCell,
        adjoint: Tensor,
        sensitivity: Sensitivity,
        local: LocalDerivatives,
        inputs: Tensor,
        starts: Starts,
        /,
    ) -> ParameterGradients:
        """``contract``, and ``advance`` in place, with one read and one write of the sensitivity."""
        ...


def algebra_of(cell: DiagonalCell) -> Algebra:
    return single if cell.num_states == 1 else blocks
