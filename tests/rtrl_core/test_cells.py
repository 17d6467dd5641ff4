"""Each cell against its definition: its start, its limits, what it carries. Gradients of all of them are in ``test_rules.py``."""

import math

import pytest
import torch

from rtrl_core import CELLS, DiagonalCore, GatedCore
from rtrl_core.cells import LinearRTUCell, LRUCell, MinLSTMCell, RGLRUCell, RTUCell, SLSTMCell
from rtrl_core.cells.rotation import Rotation


def started(cell, units: int = 4000, inputs: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    core = DiagonalCore(inputs, units, cell).double()
    return core.matrices.detach(), core.vectors.detach()


def run(
    cell, steps: int, inputs: int = 3, units: int = 5, scale: float = 1.0
) -> tuple[DiagonalCore, torch.Tensor, torch.Tensor]:
    core = DiagonalCore(inputs, units, cell).double()
    x = scale * torch.randn(steps, 2, inputs, dtype=torch.float64)
    outputs, _ = core(x, core.initial_state(2), torch.zeros(steps, 2, dtype=torch.bool))
    return core, x, outputs.detach()


@pytest.mark.parametrize(
    ("cell", "low", "high"), [(LRUCell(), 0.9, 0.999), (RTUCell(), 0.5, 0.99), (LRUCell(0.0, 1.0), 0, 1)]
)
def test_a_turning_cell_starts_uniformly_on_its_ring(cell, low: float, high: float):
    matrices, vectors = started(cell)
    turning = Rotation.of(vectors[0], vectors[1])
    assert low <= turning.radius.min() < turning.radius.max() <= high
    middle = math.sqrt((low**2 + high**2) / 2)
    assert (turning.radius < middle).double().mean().item() == pytest.approx(0.5, abs=0.03)  # half of the area
    assert turning.phase.mean().item() == pytest.approx(math.pi, abs=0.15)
    variance = 1 / 16 if isinstance(cell, LRUCell) else 1 / 8
    assert matrices.var().item() == pytest.approx(variance, rel=0.03)
    if isinstance(cell, LRUCell):
        torch.testing.assert_close(vectors[2].exp(), (1 - turning.radius.square()).sqrt(), rtol=1e-5, atol=1e-7)


def test_the_linear_recurrent_unit_is_its_complex_equation():
    core, x, outputs = run(LRUCell(), 6)
    nu, theta, log_scale = core.vectors.detach()
    z = torch.exp(torch.complex(-nu.exp(), theta.exp()))
    weights = torch.complex(*core.matrices.detach())
    state = torch.zeros(2, 5, dtype=torch.complex128)
    for t in range(6):
        state = z * state + log_scale.exp() * (x[t].to(torch.complex128) @ weights.t())
        torch.testing.assert_close(outputs[t], torch.cat([state.real, state.imag], -1))


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("cell", [RTUCell, LinearRTUCell])
def test_trace_units_are_their_equations(cell, activation: str):
    core, x, outputs = run(cell(activation=activation), 6)
    nu, theta = core.vectors.detach()
    radius, phase = torch.exp(-nu.exp()), theta.exp()
    act = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda value: value}[activation]
    state = torch.zeros(2, 2, 5, dtype=torch.float64)
    for t in range(6):
        first, second = state.clone().unbind(1)
        inputs = (1 - radius.square()).sqrt() * torch.stack([x[t] @ w.t() for w in core.matrices.detach()])
        state[:, 0] = radius * (phase.cos() * first - phase.sin() * second) + inputs[0]
        state[:, 1] = radius * (phase.sin() * first + phase.cos() * second) + inputs[1]
        if cell is RTUCell:
            state = act(state)
        torch.testing.assert_close(outputs[t], (state if cell is RTUCell else act(state)).flatten(1))


def test_a_complex_linear_cell_carries_one_number_per_real_parameter():
    sizes = {name: DiagonalCore(3, 5, name).initial_state(2).sensitivity.matrices[0].numel() for name in CELLS}
    assert sizes["lru"] == sizes["linear_rtu"] == 2 * 5 * 3  # two matrices, [5, 3] each
    assert sizes["rtu"] == 2 * 2 * 5 * 3
    assert sizes["slstm"] == 2 * 3 * 5 * 3


@pytest.mark.parametrize("bias", [-1.0, 0.0, 4.0])
def test_the_minimal_lstm_keeps_what_its_forget_bias_says(bias: float):
    _, vectors = started(MinLSTMCell(forget_bias=bias), 3)
    state, gates = torch.ones(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    kept = MinLSTMCell().forward(state, gates, vectors)
    torch.testing.assert_close(kept, torch.full_like(kept, bias).sigmoid())


def test_the_real_gated_unit_remembers_3_to_250_steps_at_the_start_and_takes_its_first_input_whole():
    _, vectors = started(RGLRUCell())
    memory = -1 / (-4 * torch.nn.functional.softplus(vectors[0]))
    assert memory.min().item() == pytest.approx(2.4, abs=0.1)
    assert memory.max().item() == pytest.approx(250, rel=0.05)
    cell, gates = RGLRUCell(), torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    first = cell.forward(torch.zeros(1, dtype=torch.float64), gates, vectors[:, :1])
    torch.testing.assert_close(first, 3 * torch.ones(1, dtype=torch.float64).sigmoid())
    second = cell.forward(first, gates, vectors[:, :1])
    decay = torch.exp(-4 * torch.nn.functional.softplus(vectors[0, :1]))
    torch.testing.assert_close(second, decay * first + (1 - decay.square()).sqrt() * first)


def test_the_real_gated_unit_has_derivatives_that_are_bounded_where_it_forgets_nothing():
    cell, vectors = RGLRUCell(), torch.tensor([[-40.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    local = cell.derivatives(torch.ones(1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64), vectors)
    assert all(part.isfinite().all() for part in (local.state, *local.gates, *local.vectors))
    assert max(float(part.abs().max()) for part in local.gates) < 1000


def test_the_stabiliser_of_the_slstm_changes_nothing_that_is_read():
    core, x, outputs = run(SLSTMCell(), 8)
    cell = normaliser = torch.zeros(2, 5, dtype=torch.float64)
    for t in range(8):
        forget, take, candidate = (x[t] @ w.t() + b for w, b in zip(core.matrices, core.vectors, strict=True))
        cell = forget.sigmoid() * cell + take.exp() * candidate.tanh()
        normaliser = forget.sigmoid() * normaliser + take.exp()
        torch.testing.assert_close(outputs[t], (cell / normaliser).detach())


@pytest.mark.parametrize("cell", CELLS)
def test_large_inputs_give_finite_numbers_in_float32(cell: str):
    core = GatedCore(DiagonalCore(3, 5, cell))
    state = core.initial_state(2)
    for scale in (1e3, -1e3, 0.0):
        outputs, state = core(scale * torch.ones(4, 2, 3), state, torch.zeros(4, 2, dtype=torch.bool))
        outputs.sum().backward()
    assert state.finite_streams().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in core.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LRUCell(-0.1),
            "0 <= min_radius < max_radius <= 1 is what fits, got min_radius=-0.1 and max_radius=0.999",
        ),
        (lambda: RTUCell(0.9, 0.5), "got min_radius=0.9 and max_radius=0.5"),
        (lambda: LinearRTUCell(max_phase=7.0), "max_phase must be above 0 and at most 2 pi, got 7.0"),
        (lambda: RTUCell(activation="gelu"), "activation must be one of tanh, relu, identity, got 'gelu'"),
        (lambda: RGLRUCell(min_decay=-0.5), "0 < min_decay < max_decay < 1 is what fits, got min_decay=-0.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
