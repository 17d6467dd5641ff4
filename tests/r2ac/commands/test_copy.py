"""The copy task: every bit counts, and exact RTRL learns it one step at a time."""

import pytest
import torch
from rich.console import Console

from r2ac.commands.copy_task import CopyConfig, CopyLearner, main, problem, run, score


def test_the_second_half_asks_for_the_first_in_the_same_order():
    inputs, bits = problem(3, 5)
    assert inputs.shape == (6, 5, 3)
    assert ((inputs[:3, :, 0] > 0) == (bits > 0)).all()
    assert not inputs[3:, :, 0].any()
    assert inputs[:3, :, 1].all()
    assert inputs[3:, :, 2].all()


def test_a_predictor_that_ignores_the_bits_is_at_chance():
    model = CopyLearner(8, "segment")
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(1.0)  # always "one"
    blind = score(model, length=4)
    assert abs(blind.bits - 0.5) < 0.05
    assert blind.sequences < 0.15


@pytest.mark.soak
def test_it_is_learned_with_an_update_at_every_step_and_not_by_truncated_gradients():
    console = Console(quiet=True)
    learned = run(CopyConfig(length=3, sequences=350, num_units=32, learning_rate=0.006), console)
    truncated = run(CopyConfig(length=3, sequences=350, num_units=32, learning_rate=0.006, rule="tbptt"), console)
    assert learned.bits > 0.95
    assert truncated.bits < learned.bits - 0.1


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["lenght=3"]) == 2
    assert "unknown option 'lenght': did you mean length" in capsys.readouterr().err
