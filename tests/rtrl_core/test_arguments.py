"""Wrong arguments are refused in one sentence, also where shapes would broadcast and no one checks annotations: in production."""

import re
from typing import Any

import jaxtyping
import pytest
import torch
from unrolled import DIAGONAL_RULES

from rtrl_core import (
    CELLS,
    ELSTM,
    CoreState,
    DiagonalCore,
    NetworkSpec,
    PolicyNetwork,
    Sensitivity,
    VTrace,
    actor_critic_losses,
    vtrace,
)
from rtrl_core.policies import Categorical

T, B, D, N = 5, 4, 3, 6


@pytest.fixture(autouse=True)
def _as_in_production():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def refused(error: type[Exception], message: str):
    return pytest.raises(error, match=f"^{re.escape(message)}[^\n]*$")


def sensitivity(batch: int = B, dtype: torch.dtype = torch.float32) -> Sensitivity:
    return Sensitivity.zeros(batch, torch.zeros(2, N, D, dtype=dtype), torch.zeros(4, N, dtype=dtype))


def good_arguments() -> dict:
    return {
        "inputs": torch.randn(T, B, D),
        "state": CoreState(torch.zeros(B, N), sensitivity()),
        "is_first": torch.zeros(T, B, dtype=torch.bool),
    }


FLAGS = torch.zeros(T, B)
WRONG = {
    "flags of uint8": ({"is_first": FLAGS.byte()}, TypeError, "is_first must be bool [T B], got uint8 [5, 4]"),
    "flags of int64": ({"is_first": FLAGS.long()}, TypeError, "is_first must be bool [T B], got int64 [5, 4]"),
    "flags of float32": ({"is_first": FLAGS}, TypeError, "is_first must be bool [T B], got float32 [5, 4]"),
    "flags of numpy": ({"is_first": FLAGS.bool().numpy()}, TypeError, "is_first must be a tensor [T B], got ndarray"),
    "flags of another batch": (
        {"is_first": torch.zeros(T, 1, dtype=torch.bool)},
        ValueError,
        "is_first must be of shape [T B] = [5, 4], got [5, 1]",
    ),
    "batch first": (
        {"inputs": torch.randn(B, T, D), "is_first": FLAGS.bool().t()},
        ValueError,
        "state.cell must be of shape [B N] = [5, 6], got [4, 6]",
    ),
    "no step": (
        {"inputs": torch.randn(0, B, D), "is_first": torch.zeros(0, B, dtype=torch.bool)},
        ValueError,
        "inputs must be of shape [T B D] = [any, any, 3], got [0, 4, 3]",
    ),
    "no stream": (
        {"inputs": torch.randn(T, 0, D), "is_first": torch.zeros(T, 0, dtype=torch.bool)},
        ValueError,
        "inputs must be of shape [T B D] = [any, any, 3], got [5, 0, 3]",
    ),
    "inputs of another size": ({"inputs": torch.randn(T, B, 2)}, ValueError, "inputs must be of shape [T B D]"),
    "inputs without streams": ({"inputs": torch.randn(T, D)}, ValueError, "inputs must be of shape [T B D]"),
    "inputs of integers": (
        {"inputs": torch.zeros(T, B, D, dtype=torch.int64)},
        TypeError,
        "inputs must be floating point [T B D], got int64 [5, 4, 3]",
    ),
    "inputs elsewhere": (
        {"inputs": torch.randn(T, B, D, device="meta")},
        ValueError,
        "inputs must be on cpu, got a tensor on meta",
    ),
    "a state that is a tensor": ({"state": torch.zeros(B, N)}, TypeError, "state must be a CoreState"),
    "a state of another dtype": (
        {"state": CoreState(torch.zeros(B, N).double(), sensitivity())},
        TypeError,
        "state.cell must be float32 [B N], got float64 [4, 6]",
    ),
    "a state of another batch": (
        {"state": CoreState(torch.zeros(1, N), sensitivity())},
        ValueError,
        "state.cell must be of shape [B N] = [4, 6], got [1, 6]",
    ),
    "a learnable initial state": (
        {"state": CoreState(torch.zeros(B, N, requires_grad=True), sensitivity())},
        ValueError,
        "state.cell must not require a gradient",
    ),
    "no sensitivity": (
        {"state": CoreState(torch.zeros(B, N), None)},
        ValueError,
        "rule segment needs a sensitivity in its state",
    ),
    "a sensitivity of another batch": (
        {"state": CoreState(torch.zeros(B, N), sensitivity(1))},
        ValueError,
        "state.sensitivity.matrices must be of shape [B K N D] = [4, 2, 6, 3], got [1, 2, 6, 3]",
    ),
    "a sensitivity of another dtype": (
        {"state": CoreState(torch.zeros(B, N), sensitivity(B, torch.float64))},
        TypeError,
        "state.sensitivity.matrices must be float32 [B K N D]",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("layer", [DiagonalCore(D, N), ELSTM(D, N)], ids=["core", "layer"])
def test_an_unroll_with_a_wrong_argument_is_refused_in_one_sentence(layer, changes, error, message):
    layer(**good_arguments())
    with refused(error, message):
        layer(**{**good_arguments(), **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"is_first": torch.zeros(B).byte()}, TypeError, "is_first must be bool [B], got uint8 [4]"),
        ({"is_first": torch.zeros(1).bool()}, ValueError, "is_first must be of shape [B] = [4], got [1]"),
        ({"cell_state": torch.zeros(1, N)}, ValueError, "cell_state must be of shape [B N] = [4, 6], got [1, 6]"),
        ({"cell_state": torch.zeros(B, N).double()}, TypeError, "cell_state must be float32 [B N], got float64"),
        ({"inputs": torch.zeros(B, D + 1)}, ValueError, "inputs must be of shape [B D] = [any, 3], got [4, 4]"),
    ],
)
@pytest.mark.parametrize("layer", [DiagonalCore(D, N), ELSTM(D, N)], ids=["core", "layer"])
def test_a_step_with_a_wrong_argument_is_refused_in_one_sentence(layer, changes, error, message):
    good = {"inputs": torch.zeros(B, D), "cell_state": torch.zeros(B, N), "is_first": torch.zeros(B).bool()}
    layer.step(**good)
    with refused(error, message):
        layer.step(**{**good, **changes})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", DIAGONAL_RULES)
def test_a_core_in_half_precision_is_refused_and_under_autocast_it_computes_in_float32(rule: str, dtype: torch.dtype):
    core = DiagonalCore(D, N, rule=rule)
    inputs, is_first = torch.randn(T, B, D), torch.zeros(T, B, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, _ = core(inputs.to(dtype), core.initial_state(B), is_first)
    assert outputs.dtype == torch.float32
    core.to(dtype)
    with refused(TypeError, "a recurrent core computes in float32 or float64"):
        core(inputs.to(dtype), core.initial_state(B), is_first)
    with refused(TypeError, "a recurrent core computes in float32 or float64"):
        core.step(inputs[0].to(dtype), torch.zeros(B, N, dtype=dtype), is_first[0])


@pytest.mark.parametrize("in_one_pass", [False, True])
@pytest.mark.parametrize("cell", ["elstm", "lru"])
@pytest.mark.parametrize("rule", DIAGONAL_RULES)
def test_a_backward_pass_under_autocast_computes_as_without(rule: str, cell: str, in_one_pass: bool):
    core, gradients = DiagonalCore(D, N, cell, rule), []
    if in_one_pass:
        core.advance_in_backward()
    inputs, is_first = torch.randn(2 * T, B, D), torch.zeros(2 * T, B, dtype=torch.bool)
    for enabled in (False, True):
        core.zero_grad()
        state = core.initial_state(B)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for rows in (slice(0, T), slice(T, 2 * T)):
                outputs, state = core(inputs[rows], state, is_first[rows])
                outputs.square().sum().backward()
        gradients.append([parameter.grad for parameter in core.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_a_state_of_no_stream_and_a_sensitivity_for_a_rule_without_one_are_refused():
    core = DiagonalCore(D, N, rule="tbptt")
    with refused(ValueError, "batch_size must be at least 1, got 0"):
        core.initial_state(0)
    good = good_arguments()
    with refused(ValueError, "rule tbptt carries no sensitivity in its state"):
        core(**good)
    with refused(ValueError, "rule tbptt carries no sensitivity, so out must be None"):
        core.forward_into(**{**good, "state": CoreState(torch.zeros(B, N), None)}, out=sensitivity())
    with refused(ValueError, "out.matrices must be of shape [B K N D]"):
        DiagonalCore(D, N).forward_into(**good, out=sensitivity(B + 1))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("rule", ["segment", "reference"])
@pytest.mark.parametrize("shared", ["both", "matrices", "vectors", "a part", "another unroll's"])
def test_memory_that_backward_still_reads_is_never_overwritten(rule: str, cell: str, shared: str):
    core = DiagonalCore(D, N, cell, rule)
    state, inputs = core.initial_state(B), torch.randn(T, B, D)
    old, is_first = state.sensitivity, torch.zeros(T, B, dtype=torch.bool)
    assert old is not None
    spare = old.empty_like()
    if shared == "another unroll's":
        outputs, _ = core(inputs, state, is_first)
        core.forward_into(inputs, core.initial_state(B), is_first, old)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            outputs.sum().backward()
        return
    if shared == "a part":
        memory = torch.zeros(B + 1, *old.matrices.shape[1:])
        state, out = state._replace(sensitivity=old._replace(matrices=memory[:B])), spare._replace(matrices=memory[1:])
    else:
        names = ("matrices", "vectors") if shared == "both" else (shared,)
        out = spare._replace(**{name: getattr(old, name) for name in names})
    with refused(ValueError, "out must not share memory with the sensitivity that the unroll starts from"):
        core.forward_into(inputs, state, is_first, out)
    if shared != "both":  # one step may advance the whole of it in place, not half of it
        with refused(ValueError, "out must not share memory"):
            core.forward_into(inputs[:1], state, is_first[:1], out)


@pytest.mark.parametrize("rule", ["segment", "reference"])
def test_an_output_that_is_not_contiguous_is_refused(rule: str):
    strided = Sensitivity(torch.zeros(B, 2, D, N).transpose(2, 3), torch.zeros(B, 4, N))
    core = DiagonalCore(D, N, rule=rule)
    with refused(ValueError, "out must be contiguous"):
        core.forward_into(torch.randn(T, B, D), core.initial_state(B), torch.zeros(T, B, dtype=torch.bool), strided)


@pytest.mark.parametrize("core", ["elstm", "feedforward"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"is_first": torch.zeros(B).byte()}, TypeError, "is_first must be bool [B], got uint8 [4]"),
        ({"last_reward": torch.zeros(B, 1)}, ValueError, "last_reward must be of shape [B] = [4], got [4, 1]"),
        (
            {"last_action": torch.zeros(1).long()},
            ValueError,
            "last_action must be of shape [B ...] = [4, ...], got [1]",
        ),
        ({"features": torch.zeros(B, 2)}, ValueError, "features must be of shape [B F] = [any, 3], got [4, 2]"),
        ({"instruction": torch.zeros(B, 5)}, TypeError, "instruction must be int64 [B L], got float32 [4, 5]"),
    ],
)
def test_the_network_refuses_wrong_inputs_of_its_core(core, changes, error, message):
    network = PolicyNetwork(
        NetworkSpec(
            (3,), "vector", Categorical(2), encoder="none", core=core, num_units=N, last_action=True, instruction=True
        )
    )
    good = {
        "features": torch.zeros(B, 3),
        "last_reward": torch.zeros(B),
        "last_action": torch.zeros(B).long(),
        "is_first": torch.zeros(B).bool(),
        "instruction": torch.zeros(B, 5).long(),
    }
    inputs = network.core_inputs(**good)
    with refused(error, message):
        network.core_inputs(**{**good, **changes})
    state, uint8 = network.initial_state(B), torch.zeros(B, dtype=torch.uint8)
    with refused(TypeError, "is_first must be bool [B]"):
        network.act(inputs, state.cell, uint8)
    with refused(TypeError, "is_first must be bool [T B]"):
        network.unroll(inputs.unsqueeze(0), state, uint8.unsqueeze(0))
    with refused(ValueError, "inputs must be of shape [T B D]"):
        network.unroll(inputs, state, uint8.bool())


ROWS = ("log_ratios", "rewards", "values", "next_values")
FLAG_ROWS = ("terminated", "truncated", "valid")


@pytest.mark.parametrize("name", [*ROWS, *FLAG_ROWS])
def test_v_trace_refuses_rows_that_would_broadcast_or_are_no_flags(name: str):
    good: dict[str, Any] = {
        **{row: torch.zeros(T, B) for row in ROWS},
        **{row: torch.zeros(T, B).bool() for row in FLAG_ROWS},
    }
    vtrace(**good, discount=0.9)
    with refused(ValueError, f"{name if name != 'values' else 'log_ratios'} must be of shape [T B]"):
        vtrace(**{**good, name: good[name][:, :1]}, discount=0.9)
    wrong = good[name].byte()
    with refused(TypeError, f"{name} must be {'bool' if name in FLAG_ROWS else 'floating point'} [T B], got uint8"):
        vtrace(**{**good, name: wrong}, discount=0.9)
    with refused(ValueError, "values must be of shape [T B] = [any, any], got [0, 4]"):
        vtrace(**{row: tensor[:0] for row, tensor in good.items()}, discount=0.9)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"values": torch.zeros(T, B, 1)}, ValueError, "values must be of shape [T B] = [any, any], got [5, 4, 1]"),
        ({"parameters": torch.zeros(T, 1, 3)}, ValueError, "parameters must be of shape [T B A] = [5, 4, 3]"),
        ({"actions": torch.zeros(1, B).long()}, ValueError, "actions must be of shape [T B ...] = [5, 4, ...]"),
        ({"valid": torch.ones(T, B)}, TypeError, "valid must be bool [T B], got float32 [5, 4]"),
        ({"valid": torch.ones(T, 1).bool()}, ValueError, "valid must be of shape [T B] = [5, 4], got [5, 1]"),
        (
            {"returns": VTrace(torch.zeros(T, 1), torch.zeros(T, B))},
            ValueError,
            "returns.targets must be of shape [T B] = [5, 4], got [5, 1]",
        ),
    ],
)
def test_the_loss_refuses_rows_that_would_broadcast(changes, error, message):
    good = {
        "distribution": Categorical(3),
        "parameters": torch.zeros(T, B, 3),
        "values": torch.zeros(T, B),
        "actions": torch.zeros(T, B).long(),
        "returns": VTrace(torch.zeros(T, B), torch.zeros(T, B)),
        "valid": torch.ones(T, B).bool(),
        "entropy_cost": 0.01,
        "baseline_cost": 0.5,
    }
    actor_critic_losses(**good)
    with refused(error, message):
        actor_critic_losses(**{**good, **changes})
