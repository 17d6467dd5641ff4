"""A state is data: it is moved, selected, saved, and read by a program that runs nothing of what it reads."""

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from patience import patience
from plain_layer import gradients

from rtrl_core import RTRL, RULES, CoreState, carried
from rtrl_core.cores import core_names

T, B, D, H = 6, 4, 3, 5


def kinds() -> list[tuple[str, str]]:
    """Every cell by name under every rule by name that fits it."""
    found = []
    for cell in core_names():
        for rule in RULES:
            try:
                RTRL(D, H, cell=cell, rule=rule)
            except ValueError:
                continue
            found.append((cell, rule))
    return found


def a_state(**options) -> tuple[RTRL, CoreState]:
    layer = RTRL(D, H, **options)
    _, state = layer(torch.randn(T, B, D))
    return layer, state


def assert_same(ours: CoreState, theirs: CoreState) -> None:
    for one, other in zip(carried.leaves(ours), carried.leaves(theirs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("cell", "rule"), kinds())
def test_a_state_of_every_cell_and_rule_is_read_as_weights_only(cell: str, rule: str):
    layer, state = a_state(cell=cell, rule=rule, num_layers=1 if cell == "feedforward" else 2)
    for written, read in ((state, lambda found: found), (state.state_dict(), layer.load_state)):
        file = io.BytesIO()
        torch.save(written, file)
        file.seek(0)
        again = read(torch.load(file, weights_only=True))
        assert isinstance(again, CoreState)
        assert_same(again, state)


class Counted(NamedTuple):
    states: torch.Tensor
    steps: torch.Tensor


def test_a_named_tuple_of_ones_own_is_read_once_it_is_said_to_be_data():
    state = CoreState(Counted(torch.ones(2, 3), torch.tensor([1, 2])), None)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError, match="Counted was not an allowed global"):
        torch.load(file, weights_only=True)
    carried.readable(Counted)
    file.seek(0)
    assert_same(torch.load(file, weights_only=True), state)


def test_a_new_process_reads_a_state_after_importing_rtrl_core(tmp_path: Path):
    layer, state = a_state(num_layers=2)
    torch.save(state, tmp_path / "state.pt")
    torch.save({"layer": layer.state_dict(), "state": state.state_dict()}, tmp_path / "both.pt")
    program = (
        "import sys, torch, rtrl_core\n"
        "assert 'torch._dynamo' not in sys.modules, 'importing is slow'\n"
        "state = torch.load(sys.argv[1], weights_only=True)\n"
        "both = torch.load(sys.argv[2], weights_only=True)\n"
        "layer = rtrl_core.RTRL(3, 5, 2)\n"
        "layer.load_state_dict(both['layer'])\n"
        "inputs = torch.ones(6, 4, 3)\n"
        "one, other = layer(inputs, state)[0], layer(inputs, layer.load_state(both['state']))[0]\n"
        "assert torch.equal(one, other)\n"
        "print(type(state.sensitivity[0]).__name__, one.double().sum().item())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state.pt"), str(tmp_path / "both.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(100), check=False)
    assert done.returncode == 0, done.stderr
    name, total = done.stdout.split()
    assert name == "Sensitivity"
    outputs, _ = layer(torch.ones(T, B, D), state)
    assert float(total) == pytest.approx(outputs.double().sum().item(), rel=1e-5)


def test_a_stored_state_is_no_larger_than_what_is_carried():
    layer, state = a_state()
    file = io.BytesIO()
    torch.save(state, file)
    assert file.tell() < B * layer.state_bytes_per_stream + 4000
    long = RTRL(D, H)
    _, state = long(torch.randn(500, B, D))
    assert all(leaf.untyped_storage().nbytes() == leaf.nbytes for leaf in carried.leaves(state))


def test_streams_are_selected_by_flags_or_numbers_and_go_on_as_they_would_have():
    layer, state = a_state(num_layers=2)
    inputs = torch.randn(T, B, D)
    whole, after = layer(inputs, state)
    for streams in (torch.tensor([True, False, True, False]), torch.tensor([2, 0, 2])):
        outputs, part = layer(inputs[:, streams], state.select(streams))
        torch.testing.assert_close(outputs, whole[:, streams])
        for ours, theirs in zip(carried.leaves(part), carried.leaves(after.select(streams)), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert_same(state.of(torch.tensor([True, False, True, False])), state.select(torch.tensor([0, 2])))


def test_detach_is_allowed_and_ends_no_credit():
    layer = RTRL(D, H, dtype=torch.float64)
    inputs, found = torch.randn(2, T, B, D, dtype=torch.float64), []
    _, state = layer(inputs[0])
    assert not any(leaf.requires_grad for leaf in carried.leaves(state))
    for start in (state, state.detach(), layer.initial_state(B)._replace(cell=state.cell)):
        layer(inputs[1], start)[0].sin().sum().backward()
        found.append(torch.cat([gradient.flatten() for gradient in gradients(layer)]))
    assert torch.equal(found[0], found[1])
    assert float((found[0] - found[2]).norm()) > 1e-6  # this is what ends it


def test_moving_changes_what_is_floating_point_and_counts_stay_counts():
    state = CoreState((torch.ones(2, 3), torch.tensor([1, 2])), None)
    moved = state.to("cpu", torch.float64)
    assert [leaf.dtype for leaf in carried.leaves(moved)] == [torch.float64, torch.int64]
    assert [leaf.device.type for leaf in carried.leaves(state.to(torch.device("meta")))] == ["meta", "meta"]


def test_a_state_that_is_saved_goes_to_the_layer_that_it_is_of():
    layer, state = a_state()
    with pytest.raises(
        ValueError, match=r"expected torch.float32 \[4, 6\] in a saved state, got torch.float32 \[4, 5\]"
    ):
        RTRL(D, H + 1).load_state(state.state_dict())
    with pytest.raises(ValueError, match="in a saved state"):
        RTRL(D, H, 2).load_state(state.state_dict())
    with pytest.raises(ValueError, match="got one without a tensor"):
        layer.load_state({})
