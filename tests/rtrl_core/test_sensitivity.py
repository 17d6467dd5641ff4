import math

import pytest
import torch

from rtrl_core import CoreState, DiagonalCore, PolicyNetwork, Sensitivity, carried
from rtrl_core.network import NetworkSpec
from rtrl_core.policies import Categorical

BROKEN = (math.nan, math.inf, -math.inf)


def some_sensitivity() -> Sensitivity:
    core = DiagonalCore(3, 4)
    state = core.initial_state(2)
    _, state = core(torch.randn(5, 2, 3), state, torch.zeros(5, 2, dtype=torch.bool))
    assert state.sensitivity is not None
    return state.sensitivity


def test_it_starts_at_zero_with_one_number_per_core_parameter_and_stream():
    sensitivity = DiagonalCore(257, 512).initial_state(32).sensitivity
    assert sensitivity is not None
    assert sensitivity.size_bytes == 32 * (2 * 512 * 257 + 4 * 512) * 4
    assert float(sensitivity.norm()) == 0.0


def test_reset_zeroes_the_named_streams_and_no_others():
    sensitivity = some_sensitivity()
    kept = sensitivity.matrices[1].clone()
    sensitivity.reset_(torch.tensor([True, False]))
    assert not sensitivity.matrices[0].any()
    assert not sensitivity.vectors[0].any()
    torch.testing.assert_close(sensitivity.matrices[1], kept)


@pytest.mark.parametrize("value", BROKEN)
def test_reset_clears_what_is_not_finite_and_leaves_the_other_streams_as_they_are(value: float):
    sensitivity = some_sensitivity()
    kept = [part[1].clone() for part in sensitivity]
    for part in sensitivity:
        part[0] = value
    sensitivity.reset_(torch.tensor([True, False]))
    for part, before in zip(sensitivity, kept, strict=True):
        assert not part[0].any()
        assert torch.equal(part[1], before)


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("where", ["matrices", "vectors"])
def test_a_single_entry_that_is_not_finite_names_its_stream(where: str, value: float):
    sensitivity = Sensitivity(torch.randn(3, 2, 5, 7), torch.randn(3, 4, 5))
    assert sensitivity.finite_streams().tolist() == [True, True, True]
    getattr(sensitivity, where)[1].view(-1)[-1] = value
    assert sensitivity.finite_streams().tolist() == [True, False, True]
    assert sensitivity.stream_norms().isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 3e38), (torch.float64, 1.7e308)])
@pytest.mark.parametrize("scale", [1.0, 1e30, None])
def test_the_norm_of_a_stream_is_finite_and_right_whatever_finite_numbers_it_holds(dtype, largest, scale):
    scale = largest if scale is None else scale
    parts = [torch.rand(2, 2, 5, 7, dtype=dtype), torch.rand(2, 4, 5, dtype=dtype)]
    expected = torch.cat([part[0].flatten() for part in parts]).double().norm()
    for part in parts:
        part[0] *= scale
    norms = Sensitivity(*parts).stream_norms()
    assert norms.isfinite().all()
    if scale < 1e300:
        torch.testing.assert_close(norms[0], expected * scale, rtol=1e-6, atol=0)
    assert Sensitivity(*parts).finite_streams().all()


@pytest.mark.parametrize("rule", ["segment", "tbptt"])
@pytest.mark.parametrize("value", BROKEN)
def test_a_state_names_the_streams_that_are_not_finite_and_lets_them_begin_anew(rule: str, value: float):
    core = DiagonalCore(3, 4, rule=rule)
    outputs, state = core(torch.randn(5, 3, 3), core.initial_state(3), torch.zeros(5, 3, dtype=torch.bool))
    shown = outputs.detach().clone()
    broken = CoreState(state.cell.clone(), state.sensitivity)
    broken.cell[0, 2] = value
    if broken.sensitivity is not None:
        broken.sensitivity.matrices[2, 0, 0, 0] = value
    expected = [False, True, rule == "tbptt"]
    assert broken.finite_streams().tolist() == expected
    clean = broken.reset(~broken.finite_streams())
    assert clean.finite_streams().all()
    assert not clean.cell[0].any()
    assert torch.equal(clean.cell[1], state.cell[1])
    state.reset(torch.ones(3, dtype=torch.bool))
    assert torch.equal(outputs, shown)  # the state is a view of what the unroll returned


def test_the_empty_state_of_a_network_without_recurrence_is_finite_and_can_be_reset():
    spec = NetworkSpec((3,), "vector", Categorical(2), encoder="none", core="feedforward")
    state = PolicyNetwork(spec).initial_state(2)
    assert state.finite_streams().tolist() == [True, True]
    assert state.reset(torch.tensor([True, False])).cell.shape == (2, 0)


def test_a_saved_one_loads_equal():
    sensitivity = some_sensitivity()
    again = carried.load(some_sensitivity(), carried.save(sensitivity))
    for ours, theirs in zip(again, sensitivity, strict=True):
        assert torch.equal(ours, theirs)


def test_half_precision_parameters_still_accumulate_in_float32():
    parameters = torch.zeros(2, 4, 3, dtype=torch.bfloat16), torch.zeros(4, 4, dtype=torch.bfloat16)
    assert all(part.dtype == torch.float32 for part in Sensitivity.zeros(2, *parameters))


def test_the_norm_is_the_root_mean_square_over_streams():
    sensitivity = some_sensitivity()
    per_stream = [sum(float(part[b].square().sum()) for part in sensitivity) for b in range(2)]
    torch.testing.assert_close(float(sensitivity.norm()), (sum(per_stream) / 2) ** 0.5)
