"""A replay that is saved is the same one again; what was altered in between is refused in words, or does no harm."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from local_run import LocalRun, local_run
from replayed import BREAKOUT, LAB, POLE, configured, places

from conf.knobs import ConfigError
from learner.q_learner import QLearner, QPlan
from learner.sequence_replay import Drawn
from rtrl_core import carried

KEPT = "algorithm.options.checkpoint_replay=true"
Tree = dict[str, Any]

pytestmark = pytest.mark.seconds


def filled(*words: str, unrolls: int = 8) -> tuple[LocalRun, QPlan, QLearner]:
    """A learner that has been sent so many unrolls, and has learned from them."""
    run = local_run(configured(KEPT, *words))
    assert isinstance(run.plan, QPlan)
    learner = run.plan.resume(run.first)
    for _ in range(unrolls):
        learner.add(run.unroll(0, learner.snapshot()))
        learner.finish_round()
    return run, run.plan, learner


def saved_and_read(learner: QLearner) -> Tree:
    return pickle.loads(pickle.dumps(learner.get_state()))


def same(ours: Drawn, theirs: Drawn) -> bool:
    leaves = [carried.leaves((drawn.sequences, tuple(drawn.pasts), drawn.weights)) for drawn in (ours, theirs)]
    pairs = list(zip(*leaves, strict=True))
    return places(ours) == places(theirs) and all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("words", [["rule.refresh=4"], POLE, BREAKOUT, LAB], ids=["maze", "pole", "breakout", "lab"])
def test_what_is_read_is_what_was_saved_and_goes_on_like_it(words: list[str], lab: None):
    run, plan, learner = filled(*words, "algorithm.options.replay_bytes=100_000_000")
    again = plan.resume(saved_and_read(learner))
    assert again.replay.size_bytes == learner.replay.size_bytes
    assert len(again.replay) == len(learner.replay) > 0
    assert same(again.replay.draw(20), learner.replay.draw(20))
    for _ in range(3):
        contribution = run.unroll(0, learner.snapshot())
        for one in (learner, again):
            one.add(contribution)
            one.finish_round()
    run.fleet.close()
    assert torch.equal(again.snapshot().vector, learner.snapshot().vector)
    assert same(again.replay.draw(20), learner.replay.draw(20))


def test_saving_takes_a_few_tensors_however_much_is_kept():
    def tensors(tree: Any) -> int:
        return sum(map(tensors, tree.values())) if isinstance(tree, dict) else isinstance(tree, torch.Tensor)

    counts = []
    for unrolls in (4, 12):
        run, _, learner = filled(unrolls=unrolls)
        run.fleet.close()
        counts.append(tensors(learner.get_state()["replay"]))
    assert counts[0] == counts[1] < 25


def test_where_there_is_less_room_the_newest_is_kept():
    run, _, learner = filled()
    run.fleet.close()
    one = learner.replay.size_bytes // 8
    smaller = local_run(configured(KEPT, f"algorithm.options.replay_bytes={int(5.5 * one)}"))
    smaller.fleet.close()
    assert isinstance(smaller.plan, QPlan)
    again = smaller.plan.resume(saved_and_read(learner)).replay
    assert again.size_bytes <= 5.5 * one
    powers = {place: learner.replay._powers[place] for place in places(learner.replay.draw(500))}
    drawn = places(again.draw(500))
    assert {number for number, _ in drawn} == {3, 4, 5}
    assert all(again._powers[place] == powers[place] for place in drawn)


@pytest.mark.parametrize(
    "changed",
    [
        ["algorithm.options.priority_exponent=0.5"],
        ["algorithm.options.burn_in=4"],
        ["algorithm.options.burn_in=4", "algorithm.options.length=8"],
        ["algorithm.options.burn_in=16"],
    ],
    ids=",".join,
)
def test_other_sequences_and_exponents_have_first_priorities_again(changed: list[str]):
    run, _, learner = filled()
    other = local_run(configured(KEPT, *changed))
    other.fleet.close()
    assert isinstance(other.plan, QPlan)
    again, fresh = other.plan.resume(saved_and_read(learner)).replay, other.plan.resume(other.first).replay
    run.fleet.close()
    run = local_run(configured(KEPT))
    weights = QPlan.resume(run.plan, run.first).snapshot()  # pyright: ignore[reportArgumentType]
    for chunk in learner.replay._chunks.values():
        contribution = run.unroll(0, weights)
        object.__setattr__(contribution, "trajectory", chunk.trajectory)
        fresh.add(contribution)
    run.fleet.close()
    assert len(again) > 0
    np.testing.assert_array_equal(again._powers, fresh._powers)


@pytest.fixture(scope="module")
def of_a_maze() -> tuple[QPlan, Tree]:
    """A plan, and the state of a learner that has learned by it."""
    run, plan, learner = filled()
    run.fleet.close()
    return plan, saved_and_read(learner)


def replaced(tree: Tree, path: str, value: Any) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        tree = tree[folder]
    tree[name] = value(tree[name]) if callable(value) else value


def with_entry(place: int, value: Any) -> Any:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[place] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("powers", lambda powers: powers[1:]),
        ("powers", lambda powers: powers[:, 1:]),
        ("powers", with_entry(0, -1.0)),
        ("powers", with_entry(0, float("nan"))),
        ("noise", "{}"),
        ("noise", "nothing"),
        ("noise", '{"bit_generator": "PCG64", "state": {"state": "a", "inc": 1}, "has_uint32": 0, "uinteger": 0}'),
        ("chunks/first", -1),
        ("chunks/first", "0"),
        ("chunks/first", 2**63),
        ("chunks/previous", None),
        ("chunks/previous", with_entry(3, 7)),
        ("chunks/previous", with_entry(3, 1)),
        ("chunks/previous", lambda numbers: numbers[1:]),
        ("chunks/policy_version", with_entry(0, -1)),
        ("chunks/shapes", None),
        ("chunks/shapes", lambda shapes: shapes[:, 1:]),
        ("chunks/shapes", with_entry(0, 2**40)),
        ("chunks/tensors", {}),
        ("chunks/tensors/0", None),
        ("chunks/tensors/0", lambda tensor: tensor.double().long()),
        ("chunks/tensors/0", lambda tensor: tensor[1:]),
        ("chunks/tensors/1", lambda tensor: tensor.view(1, -1)),
    ],
)
def test_what_was_altered_is_refused_in_one_line_that_says_how_to_go_on(
    path: str, value: Any, of_a_maze: tuple[QPlan, Tree]
):
    plan, state = of_a_maze[0], copy.deepcopy(of_a_maze[1])
    replaced(state["replay"], path, value)
    with pytest.raises(
        ConfigError, match=r"replay cannot be used: .*go on without it with .*checkpoint_replay=false"
    ) as caught:
        plan.resume(state)
    assert "\n" not in str(caught.value)


def odd(tensor: torch.Tensor, chance: np.random.Generator) -> Any:
    """A number of its type that may not be a good one there."""
    if tensor.dtype == torch.bool:
        return bool(chance.integers(2))
    if tensor.is_floating_point():
        return float(chance.choice([0.0, 1e30, -1.0, np.nan, np.inf]))
    limits = torch.iinfo(tensor.dtype)
    return int(np.clip(chance.choice([0, 1, -1, 3, 1000]), limits.min, limits.max))


@pytest.mark.parametrize("words", [POLE, LAB], ids=["pole", "lab"])
def test_whatever_was_altered_it_is_refused_or_can_be_learned_from(words: list[str], lab: None):
    run, plan, learner = filled(*words)
    run.fleet.close()
    state, chance = saved_and_read(learner), np.random.default_rng(1)
    chunks = state["replay"]["chunks"]
    paths = ["previous", "policy_version", "shapes", *(f"tensors/{place}" for place in chunks["tensors"])]
    refused = 0
    for number in range(40):
        altered = copy.deepcopy(state)
        for _ in range(3):
            replaced(
                altered["replay"]["chunks"],
                paths[number % len(paths)],
                lambda tensor: (
                    with_entry(int(chance.integers(len(tensor.view(-1)))), odd(tensor, chance))(tensor)
                    if tensor.numel()
                    else tensor
                ),
            )
        try:
            again = plan.resume(altered)
        except ConfigError:
            refused += 1
            continue
        again._update_from_replay()
    assert 3 < refused < 37


@pytest.fixture(autouse=True)
def _with_few_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
