"""What an actor ships instead of a gradient: frames once each, whatever the stacks do, and a size that is known beforehand."""

import pytest
import torch

from actors.trajectory import Observations, TrajectoryContribution
from actors.worker import ActorIdentity
from conf.load import load_train
from learner.algorithms import IMPALA
from r2ac.training.build import describe_environment, initial_weights
from rtrl_core import WeightsSnapshot


def stacked(frames: torch.Tensor, depth: int, begins: torch.Tensor) -> torch.Tensor:
    """Observations ``[R, B, depth, H, W]`` of single frames ``[R, B, H, W]``; where an episode begins the stack is its first frame."""
    rows = [frames[0].unsqueeze(1).repeat(1, depth, 1, 1)]
    for frame, first in zip(frames[1:], begins[1:], strict=True):
        moved = torch.cat([rows[-1][:, 1:], frame.unsqueeze(1)], 1)
        rows.append(torch.where(first[:, None, None, None], frame.unsqueeze(1).expand_as(moved), moved))
    return torch.stack(rows)


@pytest.mark.parametrize("depth", [2, 4])
def test_of_stacks_that_move_on_each_frame_is_kept_once(depth: int):
    frames = torch.randint(0, 255, (9, 3, 5, 4), dtype=torch.uint8)
    begins = torch.zeros(9, 3, dtype=torch.bool)
    begins[4, 1] = True
    whole = stacked(frames, depth, begins)
    packed = Observations.pack(whole, "CHW")
    assert torch.equal(packed.unpack(), whole)
    assert len(packed.rows) == 9 * 3, "a stack that begins anew is one image as well"


def test_an_image_that_comes_back_is_not_kept_twice_and_one_that_does_not_is():
    one, other, third, fourth = torch.randint(0, 255, (4, 5, 4), dtype=torch.uint8)
    stacks = [
        [one, one, other],
        [one, other, third],
        [third, third, third],
        [fourth, one, fourth],
        [one, fourth, other],
    ]
    whole = torch.stack([torch.stack(stack).unsqueeze(0) for stack in stacks])
    packed = Observations.pack(whole, "CHW")
    assert torch.equal(packed.unpack(), whole)
    assert len(packed.rows) == 6, "one and other again, after a row without them"


@pytest.mark.parametrize("layout", ["HWC", "vector"])
def test_what_has_no_stacks_is_kept_as_it_is(layout: str):
    whole = torch.randint(0, 255, (6, 2, 3, 4, 5), dtype=torch.uint8)
    packed = Observations.pack(whole, layout)
    assert packed.rows is whole
    assert packed.unpack() is whole


def test_stacks_that_share_nothing_stay_whole():
    whole = torch.randint(0, 255, (6, 2, 3, 4, 5), dtype=torch.uint8)
    assert Observations.pack(whole, "CHW").rows is whole


def test_colours_that_happen_to_look_like_a_stack_come_back_the_same():
    grey = torch.randint(0, 255, (1, 2, 1, 4, 5), dtype=torch.uint8).expand(6, 2, 3, 4, 5)
    assert torch.equal(Observations.pack(grey, "CHW").unpack(), grey)


@pytest.mark.seconds
@pytest.mark.parametrize(
    "words",
    [
        ["env=atari/breakout", "network=nature", "rule=tbptt"],
        ["env=atari/breakout", "network=nature", "algorithm.options.ship=trajectories_s0"],
        ["env=tmaze", "network=none", "rule=tbptt"],
        ["env=tmaze", "network=none", "algorithm.options.ship=trajectories_s0"],
    ],
)
def test_its_size_is_known_before_there_is_one(words: list[str]):
    sizes = ["actors.num_envs=3", "actors.unroll=30", "fleet=local", "fleet.num_actors=1", "network.num_units=32"]
    config = load_train(["algorithm=impala", *sizes, *words])
    spec = describe_environment(config, print)
    layout, vector = initial_weights(config, spec)
    algorithm = IMPALA(**config.algorithm.options)
    actor = algorithm.worker(config, ActorIdentity(0, 0, 1), None)
    weights = WeightsSnapshot(0, layout.fingerprint, vector)
    actor.unroll(weights)  # the first one begins where all stacks do
    contribution = actor.unroll(weights)
    actor.close()
    assert isinstance(contribution, TrajectoryContribution)
    assert algorithm.contribution_bytes(config, spec, layout) == pytest.approx(contribution.size_bytes, rel=0.25)
