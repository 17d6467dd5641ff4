import torch

from rtrl_core import DiagonalCore, Sensitivity


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


def test_a_saved_one_loads_equal():
    sensitivity = some_sensitivity()
    again = Sensitivity.from_state_dict(sensitivity.state_dict())
    for ours, theirs in zip(again, sensitivity, strict=True):
        assert torch.equal(ours, theirs)


def test_half_precision_parameters_still_accumulate_in_float32():
    parameters = torch.zeros(2, 4, 3, dtype=torch.bfloat16), torch.zeros(4, 4, dtype=torch.bfloat16)
    assert all(part.dtype == torch.float32 for part in Sensitivity.zeros(2, *parameters))


def test_the_norm_is_the_root_mean_square_over_streams():
    sensitivity = some_sensitivity()
    per_stream = [sum(float(part[b].square().sum()) for part in sensitivity) for b in range(2)]
    torch.testing.assert_close(float(sensitivity.norm()), (sum(per_stream) / 2) ** 0.5)
