"""The gradient contract, for every learning rule and every cell."""

import itertools

import pytest
import torch
from unrolled import DIAGONAL_RULES, EVERY_CELL, full_gradient

from rtrl_core import CELLS, ELSTM, RULES, DiagonalCell, DiagonalCore, Sensitivity, carried

EXACT_RULES = [name for name in DIAGONAL_RULES if RULES[name].exact]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def random_problem(total: int, batch: int, core: DiagonalCore, first_rate: float = 0.15):
    dtype = core.matrices.dtype
    x = torch.randn(total, batch, core.input_size, dtype=dtype)
    is_first = torch.rand(total, batch) < first_rate
    is_first[0] = True
    weights = torch.randn(total, batch, core.output_size, dtype=dtype)
    return x, is_first, weights


def gradient_by_unrolls(
    core: DiagonalCore, x, is_first, weights, lengths
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients accumulated over consecutive unrolls with frozen weights, and the states."""
    state, states, start, spare = core.initial_state(x.shape[1]), [], 0, None
    core.zero_grad()
    for length in lengths:
        rows = slice(start, start + length)
        before = state.sensitivity
        outputs, state = core.forward_into(x[rows], state, is_first[rows], spare)
        (weights[rows] * outputs.sin()).sum().backward()
        states.append(outputs.detach())
        start, spare = start + length, before
    assert core.matrices.grad is not None
    assert core.vectors.grad is not None
    return core.matrices.grad.clone(), core.vectors.grad.clone(), torch.cat(states)


@pytest.mark.parametrize("out", ["none", "separate", "in place"])
@pytest.mark.parametrize("cell", EVERY_CELL)
@pytest.mark.parametrize("rule", EXACT_RULES)
def test_step_by_step_the_gradient_is_exact_wherever_the_sensitivity_is_written(rule: str, cell: str, out: str):
    core = DiagonalCore(5, 7, cell, rule).double()
    x, is_first, weights = random_problem(12, 3, core)
    state = core.initial_state(3)
    assert state.sensitivity is not None
    spare = state.sensitivity.empty_like()
    for t in range(12):
        before = state.sensitivity
        target = {"none": None, "separate": spare, "in place": before}[out]
        outputs, state = core.forward_into(x[t : t + 1], state, is_first[t : t + 1], target)
        (weights[t] * outputs[0].sin()).sum().backward()
        spare = before
    matrices, vectors, _ = full_gradient(core.cell, core.matrices, core.vectors, x, is_first, weights)
    torch.testing.assert_close(core.matrices.grad, matrices, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(core.vectors.grad, vectors, rtol=1e-9, atol=1e-12)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def cuts() -> list:
    """Of every cell some, of one of each kind all, of the others the rest in the long tests."""
    lengths = [(12,), (5, 7), (1,) * 12, (1, 4, 1, 6), (3, 3, 3, 3)]
    return [
        pytest.param(
            *(cell, cut, dtype),
            marks=[] if (dtype == torch.float64 and (cell == "elstm" or cut in lengths[1:4])) else [pytest.mark.soak],
            id=f"{cell}-{cut}-{dtype}",
        )
        for cell in CELLS
        for cut in lengths
        for dtype in (torch.float64, torch.float32)
        if not (dtype == torch.float32 and cell == "elstm")
    ] + [pytest.param("elstm", cut, torch.float32, id=f"elstm-{cut}-torch.float32") for cut in lengths]


@pytest.mark.parametrize(("cell", "lengths", "dtype"), cuts())
@pytest.mark.parametrize("rule", EXACT_RULES)
def test_any_segmentation_gives_the_gradient_of_backpropagation_through_the_whole_episode(rule, cell, lengths, dtype):
    core = DiagonalCore(5, 7, cell, rule).to(dtype)
    x, is_first, weights = random_problem(12, 3, core)
    matrices, vectors, states = gradient_by_unrolls(core, x, is_first, weights, lengths)
    expected_matrices, expected_vectors, expected_states = full_gradient(
        core.cell, core.matrices, core.vectors, x, is_first, weights
    )
    assert relative(states, expected_states) < TOLERANCE[dtype]
    assert relative(matrices, expected_matrices) < TOLERANCE[dtype]
    assert relative(vectors, expected_vectors) < TOLERANCE[dtype]


@pytest.mark.parametrize(("batch", "inputs", "units"), [(1, 1, 1), (1, 6, 3), (4, 2, 9), (3, 17, 5)])
@pytest.mark.parametrize("cell", EVERY_CELL)
@pytest.mark.parametrize("rule", EXACT_RULES)
def test_odd_sizes(rule, cell, batch, inputs, units):
    core = DiagonalCore(inputs, units, cell, rule).double()
    x, is_first, weights = random_problem(7, batch, core, first_rate=0.3)
    matrices, vectors, _ = gradient_by_unrolls(core, x, is_first, weights, (2, 1, 4))
    expected_matrices, expected_vectors, _ = full_gradient(core.cell, core.matrices, core.vectors, x, is_first, weights)
    torch.testing.assert_close(matrices, expected_matrices, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(vectors, expected_vectors, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_a_closed_form_of_the_derivatives_equals_forward_mode(cell):
    instance = CELLS[cell]()
    state = torch.randn(4, *instance.state_shape(6), dtype=torch.float64)
    if instance.num_scales:
        state[:, 1].abs_()
    state[0] = 0
    gates = torch.randn(4, len(instance.gate_names), 6, dtype=torch.float64)
    vectors = torch.randn(len(instance.vector_names), 6, dtype=torch.float64)
    closed = instance.derivatives(state, gates, vectors)
    generic = DiagonalCell.derivatives(instance, state, gates, vectors)
    for ours, theirs in zip(
        (closed.state, *closed.gates, *closed.vectors), (generic.state, *generic.gates, *generic.vectors), strict=True
    ):
        torch.testing.assert_close(ours, theirs.expand_as(ours), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_tbptt_is_the_segment_rule_with_a_zeroed_sensitivity(cell):
    x, is_first, weights = random_problem(10, 3, DiagonalCore(4, 6, cell).double())
    is_first[5] = False
    gradients = {}
    for rule in ("segment", "tbptt"):
        torch.manual_seed(1)
        core = DiagonalCore(4, 6, cell, rule).double()
        _, state = core(x[:5], core.initial_state(3), is_first[:5])
        if state.sensitivity is not None:
            state = state._replace(sensitivity=Sensitivity(*(torch.zeros_like(part) for part in state.sensitivity)))
        core.zero_grad()
        outputs, _ = core(x[5:], state, is_first[5:])
        (weights[5:] * outputs.sin()).sum().backward()
        gradients[rule] = (core.matrices.grad, core.vectors.grad)
    for ours, theirs in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", EVERY_CELL)
@pytest.mark.parametrize("rule", DIAGONAL_RULES)
def test_any_rule_changes_only_credit_that_is_older_than_the_unroll(rule: str, cell: str):
    torch.manual_seed(1)
    core = DiagonalCore(4, 6, cell, rule).double()
    x, is_first, weights = random_problem(10, 3, core)
    truncated = DiagonalCore(4, 6, cell, "tbptt").double()
    truncated.load_state_dict(core.state_dict())
    for ours, theirs in zip(
        gradient_by_unrolls(core, x, is_first, weights, (10,)),
        gradient_by_unrolls(truncated, x, is_first, weights, (10,)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    outputs = [gradient_by_unrolls(each, x, is_first, weights, (3, 3, 4))[2] for each in (core, truncated)]
    assert torch.equal(*outputs)
    state = core.initial_state(3)
    assert not any(leaf.any() for leaf in carried.leaves(state))
    assert (core.stream_norms(state.sensitivity) is not None) == core.carries_sensitivity


@pytest.mark.parametrize("rule", EXACT_RULES)
def test_rtrl_and_tbptt_differ_exactly_where_memory_is_carried(rule):
    torch.manual_seed(1)
    exact = DiagonalCore(4, 6, "elstm", rule).double()
    x, is_first, weights = random_problem(10, 3, exact, first_rate=0.0)
    truncated = DiagonalCore(4, 6, "elstm", "tbptt").double()
    truncated.load_state_dict(exact.state_dict())
    carried = [gradient_by_unrolls(core, x, is_first, weights, (5, 5))[0] for core in (exact, truncated)]
    assert relative(carried[1], carried[0]) > 1e-3
    every_step_first = torch.ones_like(is_first)
    memoryless = [gradient_by_unrolls(core, x, every_step_first, weights, (5, 5))[0] for core in (exact, truncated)]
    torch.testing.assert_close(memoryless[0], memoryless[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rule", "length"), list(itertools.product(EXACT_RULES, (1, 4))))
def test_the_sensitivity_is_the_jacobian_of_the_state(rule, length):
    core = DiagonalCore(3, 4, "elstm", rule).double()
    x, is_first, _ = random_problem(8, 2, core, first_rate=0.0)
    state = core.initial_state(2)
    for start in range(0, 8, length):
        _, state = core(x[start : start + length], state, is_first[start : start + length])

    def final_state(matrices: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        c = x.new_zeros(2, 4)
        for step in x:
            c = core.cell.forward(c, torch.stack([step @ m.t() for m in matrices], dim=1), vectors)
        return c

    by_matrices, by_vectors = torch.autograd.functional.jacobian(
        final_state, (core.matrices, core.vectors)
    )  # [B, N, K, N', D]
    assert state.sensitivity is not None
    diagonal = torch.einsum("bnknd->bknd", by_matrices)
    torch.testing.assert_close(state.sensitivity.matrices, diagonal, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.sensitivity.vectors, torch.einsum("bnpn->bpn", by_vectors), rtol=1e-10, atol=1e-12)


def test_the_gradient_of_the_inputs_is_truncated_at_the_start_of_the_unroll():
    core = DiagonalCore(3, 4, "elstm", "segment").double()
    x, is_first, weights = random_problem(8, 2, core, first_rate=0.0)
    x.requires_grad_()
    _, state = core(x[:4], core.initial_state(2), is_first[:4])
    outputs, _ = core(x[4:], state, is_first[4:])
    (weights[4:] * outputs.sin()).sum().backward()
    assert x.grad is not None
    assert not x.grad[:4].any()
    assert x.grad[4:].abs().min() > 0


def test_a_sensitivity_that_backward_still_needs_must_not_be_overwritten():
    core = DiagonalCore(3, 4)
    state = core.initial_state(2)
    outputs, _ = core(torch.randn(5, 2, 3), state, torch.zeros(5, 2, dtype=torch.bool))
    assert state.sensitivity is not None
    state.sensitivity.matrices.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_the_elstm_layer_is_a_drop_in_module_with_an_untruncated_gradient():
    torch.manual_seed(2)
    layer = ELSTM(input_size=3, num_units=5).double()
    x, is_first, _ = random_problem(9, 2, DiagonalCore(3, 5).double())
    state = layer.initial_state(2)
    for start in range(0, 9, 3):
        outputs, state = layer(x[start : start + 3], state, is_first[start : start + 3])
        outputs.square().sum().backward()
    by_unrolls = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]

    layer.zero_grad()
    outputs, _ = layer(x, layer.initial_state(2), is_first)
    outputs.square().sum().backward()
    for ours, whole in zip(by_unrolls, [p.grad for p in layer.parameters()], strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-12)


def test_the_elstm_starts_as_the_paper_says():
    torch.manual_seed(0)
    core = DiagonalCore(256, 256)
    assert core.matrices.std().item() == pytest.approx(0.1, rel=0.02)
    assert core.vectors.std().item() == pytest.approx(0.1, rel=0.1)
    assert core.vectors[2].mean().item() == pytest.approx(0.0, abs=0.03)  # no forget bias


def test_acting_step_by_step_gives_the_numbers_of_the_unroll():
    layer = ELSTM(4, 6)
    x, is_first = torch.randn(7, 3, 4), torch.rand(7, 3) < 0.3
    outputs, _ = layer(x, layer.initial_state(3), is_first)
    cell = torch.zeros(3, 6)
    for t in range(7):
        hidden, cell = layer.step(x[t], cell, is_first[t])
        torch.testing.assert_close(hidden, outputs[t].detach(), rtol=1e-5, atol=1e-6)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown rule 'bptt': expected one of segment, reference, tbptt"):
        DiagonalCore(3, 4, rule="bptt")
    with pytest.raises(ValueError, match=r"unknown cell 'lstm': expected one of elstm"):
        DiagonalCore(3, 4, cell="lstm")
    with pytest.raises(ValueError, match="at least 1"):
        DiagonalCore(0, 4)
