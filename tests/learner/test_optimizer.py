"""The update optimizer against torch's optimizer classes."""

import pytest
import torch

from conf.schema import LearnerConfig
from learner.optimizer import Optimizer


def torch_optimizer(config: LearnerConfig, weights: torch.nn.Parameter) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        beta1, beta2 = config.adam_betas
        return torch.optim.Adam([weights], betas=(beta1, beta2), eps=config.adam_epsilon, fused=True)
    return torch.optim.RMSprop([weights], alpha=config.rmsprop_decay, eps=config.rmsprop_epsilon)


@pytest.mark.seconds
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_updates_and_state_are_those_of_torchs_optimizer_bit_for_bit(optimizer: str) -> None:
    config = LearnerConfig(optimizer=optimizer, clip_norm=0.0, learning_rate=0.01)
    torch.manual_seed(0)
    vector = torch.randn(1000)
    theirs = torch.nn.Parameter(vector.clone())
    reference = torch_optimizer(config, theirs)
    ours = Optimizer(config, vector, total_steps=100)
    assert ours.get_state() == {}
    for step in range(5):
        gradient = torch.randn(1000)
        theirs.grad = gradient.clone()
        for group in reference.param_groups:
            group["lr"] = ours.learning_rate(step)
        reference.step()
        ours.apply(gradient, norm=torch.tensor(1.0), agent_steps=step)
        assert torch.equal(vector, theirs)
        kept = reference.state_dict()["state"][0]
        state = ours.get_state()
        assert state.keys() == kept.keys()
        assert all(torch.equal(state[name], kept[name]) for name in kept)


@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_tf", "adam"])
def test_the_learning_rate_rises_over_the_first_updates_and_goes_on_rising_after_a_resume(optimizer: str) -> None:
    config = LearnerConfig(optimizer=optimizer, learning_rate=0.4, final_learning_rate=0.4, warmup_updates=4)
    ours, rates = Optimizer(config, torch.randn(8), total_steps=100), []
    for step in range(6):
        if step == 2:
            state, ours = ours.get_state(), Optimizer(config, torch.randn(8), total_steps=100)
            ours.set_state(state)
        rates.append(ours.apply(torch.randn(8), torch.tensor(1.0), agent_steps=step))
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert Optimizer(LearnerConfig(learning_rate=0.4), torch.zeros(1), 100).learning_rate(0) == 0.4


def test_that_of_tensorflow_has_its_epsilon_inside_the_root_and_begins_at_one() -> None:
    config = LearnerConfig(
        optimizer="rmsprop_tf", clip_norm=0.0, learning_rate=0.01, rmsprop_decay=0.9, rmsprop_epsilon=0.1
    )
    torch.manual_seed(0)
    vector = torch.randn(10, dtype=torch.float64)
    expected, mean_square = vector.clone(), torch.ones(10, dtype=torch.float64)
    ours = Optimizer(config, vector, total_steps=100)
    for step in range(5):
        gradient = torch.randn(10, dtype=torch.float64)
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        expected -= ours.learning_rate(step) * gradient / torch.sqrt(mean_square + 0.1)
        ours.apply(gradient.clone(), norm=torch.tensor(1.0), agent_steps=step)
    torch.testing.assert_close(vector, expected, rtol=1e-12, atol=1e-14)
    assert ours.get_state()["step"] == 5


@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_tf", "adam"])
def test_it_goes_on_from_its_state_and_leaves_that_state_alone(optimizer: str) -> None:
    config = LearnerConfig(optimizer=optimizer)
    gradients = torch.randn(4, 10)
    vector = torch.ones(10)
    ours = Optimizer(config, vector, total_steps=100)
    for gradient in gradients[:2]:
        ours.apply(gradient.clone(), norm=torch.tensor(1.0), agent_steps=0)
    saved, copy = ours.get_state(), vector.clone()
    before = {name: value.clone() for name, value in saved.items()}
    resumed = Optimizer(config, copy, total_steps=100)
    resumed.set_state(saved)
    for gradient in gradients[2:]:
        ours.apply(gradient.clone(), norm=torch.tensor(1.0), agent_steps=0)
        resumed.apply(gradient.clone(), norm=torch.tensor(1.0), agent_steps=0)
    assert torch.equal(vector, copy)
    assert all(torch.equal(saved[name], before[name]) for name in before)
