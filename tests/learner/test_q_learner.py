"""R2D2 against oracles: what is replayed is what was acted; errors, gradients and draws are those of slow loops."""

import itertools
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from local_run import double_precision, local_run
from replayed import BREAKOUT, LAB, POLE, configured, places

from actors import q_actor
from actors.q_actor import QActor, ladder
from actors.trajectory import Recorded
from actors.worker import ActorIdentity
from conf.schema import TrainConfig
from learner.algorithms import find_algorithm
from learner.clients import LocalLearner
from learner.q_learner import QLearner, QPlan, _begun
from learner.receipts import Verdict
from learner.schedules import SCHEDULES
from learner.sequence_replay import Drawn, Sequences
from rtrl_core import DiagonalCore, GatedCore, PolicyNetwork, carried
from rtrl_core.policies import QValues
from rtrl_core.rules.segment import SegmentRule


@pytest.fixture(autouse=True)
def _in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


class Played:
    """A learner that has been sent so many unrolls under its first weights, with what acting computed."""

    def __init__(self, config: TrainConfig, unrolls: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acted: list[Recorded] = []
        inner = q_actor.record

        def noted(*arguments: Any) -> Recorded:
            self.acted.append(inner(*arguments))
            return self.acted[-1]

        monkeypatch.setattr(q_actor, "record", noted)
        run = local_run(config)
        assert isinstance(run.plan, QPlan)
        self.learner: QLearner = run.plan.resume(run.first)
        for _ in range(unrolls):
            self.learner.add(run.unroll(0, self.learner.snapshot()))
        run.fleet.close()

    def every_sequence(self) -> Drawn:
        """All that can be drawn, once each: draws are replaced by an enumeration."""
        replay = self.learner.replay
        numbers, streams = np.nonzero(replay._powers)
        noise, replay._noise = replay._noise, Enumerated(replay._powers)  # pyright: ignore[reportAttributeAccessIssue]
        drawn = replay.draw(len(numbers))
        replay._noise = noise
        assert sorted(zip(drawn.numbers.tolist(), drawn.streams.tolist(), strict=True)) == sorted(
            zip(numbers.tolist(), streams.tolist(), strict=True)
        )
        return drawn


class Enumerated:
    """Where a uniform number would have to lie for each sequence to be drawn once."""

    def __init__(self, powers: np.ndarray) -> None:
        summed = powers.cumsum()
        found = np.flatnonzero(powers)
        self._at = (summed[found] - powers.ravel()[found] / 2) / summed[-1]

    def random(self, count: int) -> np.ndarray:
        assert count == len(self._at)
        return self._at


def network_of(learner: QLearner) -> PolicyNetwork:
    return learner._network


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["network.core=lstm"],
        ["network.core=feedforward"],
        ["algorithm.options.burn_in=0"],
        ["algorithm.options.burn_in=4", "algorithm.options.length=8"],
        ["network.layers=2"],
        ["rule.refresh=8"],
        POLE,
        [*POLE, "network.core=lstm"],
        BREAKOUT,
        [*LAB, "rule.refresh=4"],
    ],
    ids=",".join,
)
def test_a_stored_sequence_replayed_with_the_weights_that_acted_has_the_values_of_acting(
    words: list[str], monkeypatch: pytest.MonkeyPatch, lab: None
):
    config = configured(*words)
    played = Played(config, 7, monkeypatch)
    drawn = played.every_sequence()
    assert drawn.sequences.is_first[1:].any(), "an episode begins inside"
    assert (drawn.sequences.instructions is not None) == (config.env.suite == "dmlab")
    options = played.learner._options
    errors = played.learner.errors(drawn.sequences, drawn.pasts)
    skipped, unroll = options.burn_in // config.actors.unroll, config.actors.unroll
    assert len(drawn.numbers) == (7 - (options.burn_in + options.length) // unroll + 1) * 3
    for number, stream, column in zip(drawn.numbers, drawn.streams, errors.taken.detach().T, strict=True):
        parts = played.acted[number + skipped : number + (options.burn_in + options.length) // unroll]
        acted = torch.cat([part.parameters.gather(-1, part.actions.unsqueeze(-1))[:, stream, 0] for part in parts])
        torch.testing.assert_close(column, acted, rtol=1e-9, atol=1e-9)


def h(x: float) -> float:
    return float(np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 1e-3 * x)


def h_inverse(x: float) -> float:
    return float(np.sign(x) * (((np.sqrt(1 + 4e-3 * (abs(x) + 1 + 1e-3)) - 1) / 2e-3) ** 2 - 1))


def step_of(network: PolicyNetwork, seen: Sequences, row: int, of: int, observation: torch.Tensor | None = None):
    """Core input of one step of one sequence; of another observation where the episode was cut off there."""
    is_first = seen.is_first[row : row + 1, of] if observation is None else torch.zeros(1, dtype=torch.bool)
    features = network.encode(seen.observations[row, of : of + 1] if observation is None else observation[None])
    return (
        network.core_inputs(
            features, seen.last_rewards[row, of : of + 1], seen.last_actions[row, of : of + 1], is_first
        ),
        is_first,
    )


def q_of(
    network: PolicyNetwork, seen: Sequences, of: int, start: int
) -> tuple[list[torch.Tensor], dict[int, torch.Tensor]]:
    """Values of every row, step by step, from ``start`` on under autograd; and those of final observations by the rows before them."""
    cell = seen.before.cell[of : of + 1]
    cuts = {int(row): number for number, (row, sequence) in enumerate(seen.cut_places.tolist()) if sequence == of}
    values, ends = [], {}
    for row in range(len(seen.is_first)):
        with torch.set_grad_enabled(row >= start):
            inputs, is_first = step_of(network, seen, row, of)
            hidden, cell = one_step(network, inputs, cell, is_first)
            values.append(network.heads(hidden).parameters[0])
        if row in cuts:
            final, no = step_of(network, seen, row + 1, of, seen.cut_observations[cuts[row]])
            ends[row] = network.heads(one_step(network, final, cell, no)[0]).parameters[0].detach()
    return values, ends


def one_step(network: PolicyNetwork, inputs: torch.Tensor, cell: Any, is_first: torch.Tensor):
    """The eLSTM's equations, written down once more, with its output gate."""
    gated = network.core
    assert isinstance(gated, GatedCore)
    assert isinstance(gated.core, DiagonalCore)
    matrices, vectors = gated.core.matrices, gated.core.vectors
    before = torch.where(is_first[:, None], 0.0, cell)
    f = torch.sigmoid(inputs @ matrices[0].T + vectors[0] * before + vectors[2])
    z = torch.tanh(inputs @ matrices[1].T + vectors[1] * before + vectors[3])
    after = f * before + (1 - f) * z
    return torch.sigmoid(gated.gate(torch.cat([inputs, after], -1))) * after, after


@pytest.mark.parametrize("through_burn_in", [False, True])
def test_errors_and_gradient_are_those_of_a_slow_loop(through_burn_in: bool, monkeypatch: pytest.MonkeyPatch):
    """With the gradient going through the burn-in it is backpropagation through all rows, of losses in the last ones alone."""
    config = configured(*POLE, f"algorithm.options.burn_in_gradient={through_burn_in}")
    played = Played(config, 8, monkeypatch)
    learner, drawn = played.learner, played.every_sequence()
    assert drawn.sequences.cut_places[:, 0].ge(8).any(), "a game is cut off in the part that is learned from"
    assert drawn.sequences.terminated[8:].any()
    learner._target_parameters.vector.add_(0.05 * torch.randn_like(learner._target_parameters.vector))
    learner._differentiate(drawn)
    found = learner._parameters.gradient.clone()
    ours = learner.errors(drawn.sequences, drawn.pasts).of_steps.detach()
    network, target, seen = network_of(learner), learner._target, drawn.sequences
    learner._parameters.gradient.zero_()
    loss = torch.zeros(())
    for of in range(len(drawn.numbers)):
        values, ends = q_of(network, seen, of, 0 if through_burn_in else 8)
        other, other_ends = q_of(target, seen, of, len(seen.is_first))
        for row in range(8, 12):
            if not seen.valid[row, of]:
                continue
            total, factor, at = 0.0, 1.0, row
            while True:
                total += factor * float(seen.last_rewards[at + 1, of])
                factor *= config.loss.discount
                if seen.terminated[at, of]:
                    break
                if seen.truncated[at, of]:
                    total += factor * h_inverse(float(other_ends[at][ends[at].argmax()]))
                    break
                if at == 11 or at - row == 2 or not seen.valid[at + 1, of]:
                    total += factor * h_inverse(float(other[at + 1][values[at + 1].argmax()]))
                    break
                at += 1
            error = h(total) - values[row][int(seen.last_actions[row + 1, of])]
            assert float(error.detach()) == pytest.approx(float(ours[row - 8, of]), rel=1e-9, abs=1e-9)
            loss = loss + 0.5 * error.square() * drawn.weights[of] / len(drawn.numbers)
    loss.backward()
    torch.testing.assert_close(found, learner._parameters.gradient, rtol=1e-9, atol=1e-11)


def test_the_gradient_through_the_burn_in_is_that_of_rtrl_whose_sensitivity_begins_there(
    monkeypatch: pytest.MonkeyPatch,
):
    gradients = {}
    for rule, through in (("tbptt", True), ("segment", False), ("tbptt", False)):
        played = Played(configured(f"algorithm.options.burn_in_gradient={through}"), 6, monkeypatch)
        learner, drawn = played.learner, played.every_sequence()
        if rule == "segment":
            for core in (network_of(learner).core, learner._target.core):
                assert isinstance(core, GatedCore)
                assert isinstance(core.core, DiagonalCore)
                core.core.rule = SegmentRule()
            empty = network_of(learner).initial_state(len(drawn.numbers)).sensitivity
            before = drawn.sequences.before._replace(sensitivity=empty)
            drawn = drawn._replace(sequences=drawn.sequences._replace(before=before))
        learner._differentiate(drawn)
        slots = [slot for slot in learner._layout.slots if slot.name.startswith("core.core.")]
        gradients[rule, through] = torch.cat([slot.view(learner._parameters.gradient).flatten() for slot in slots])
    exact = gradients["tbptt", True]
    torch.testing.assert_close(gradients["segment", False], exact, rtol=1e-9, atol=1e-12)
    assert (gradients["tbptt", False] - exact).abs().max() > 1e-3 * exact.abs().max()


def test_what_is_drawn_and_its_weights_are_those_of_a_sampler_without_trees(monkeypatch: pytest.MonkeyPatch):
    config = configured("algorithm.options.priority_exponent=0.7", "algorithm.options.importance_exponent=0.5")
    learner = Played(config, 7, monkeypatch).learner
    replay = learner.replay
    drawn = replay.draw(200)
    given = torch.rand(200)
    replay.update(drawn, given)
    expected = {}
    for number, stream, priority in zip(drawn.numbers.tolist(), drawn.streams.tolist(), given.tolist(), strict=True):
        expected[number, stream] = max(priority, 1e-6) ** 0.7
    assert len(expected) == len(replay) == 5 * 3, "each has been drawn, so that all priorities are known"
    total, found = sum(expected.values()), dict.fromkeys(expected, 0)
    draws = 20_000
    for _ in range(draws // 500):
        drawn = replay.draw(500)
        weights = [(len(expected) * expected[place] / total) ** -0.5 for place in places(drawn)]
        np.testing.assert_allclose(drawn.weights.numpy(), np.array(weights) / max(weights), rtol=1e-9)
        for place in places(drawn):
            found[place] += 1
    chi_square = sum(
        (found[place] - draws * power / total) ** 2 / (draws * power / total) for place, power in expected.items()
    )
    assert chi_square < 45, "of 14 degrees of freedom one in twenty thousand is above"


def test_first_priorities_are_those_of_the_errors_that_acting_saw(monkeypatch: pytest.MonkeyPatch):
    played = Played(configured(), 5, monkeypatch)
    replay = played.learner.replay
    for number, stream in places(played.every_sequence()):
        errors = replay._chunks[number + 2].trajectory.noted[:, stream].abs()
        valid = replay._chunks[number + 2].trajectory.valid[:, stream]
        priority = 0.9 * errors[valid].max() + 0.1 * errors[valid].mean()
        assert replay._powers[number, stream] == pytest.approx(float(priority) ** 0.9)


def test_the_replay_forgets_the_oldest_and_no_sequence_has_a_gap(monkeypatch: pytest.MonkeyPatch):
    learner = Played(configured(), 2, monkeypatch).learner
    one = learner.replay._chunks[1]
    run = local_run(configured("algorithm.options.replay_bytes=" + str(int(5.5 * one.size_bytes))))
    assert isinstance(run.plan, QPlan)
    replay = run.plan.resume(run.first).replay
    for sequence in (0, 1, 2, 4, 5, 6, 7, 8):  # the fourth was lost on its way
        contribution = run.unroll(0, learner.snapshot())
        replay.add(replace(contribution, header=replace(contribution.header, sequence=sequence)))
        assert replay.size_bytes <= 5.5 * one.size_bytes
    run.fleet.close()
    assert [*replay._chunks] == [3, 4, 5, 6, 7]
    assert {number for number, _ in places(replay.draw(300))} == {3, 4, 5}
    assert len(replay) == 9


def test_a_replay_without_room_for_all_that_is_waited_for_is_learned_from_when_it_is_full(
    monkeypatch: pytest.MonkeyPatch,
):
    room = int(5.5 * Played(configured(), 1, monkeypatch).learner.replay.size_bytes)
    words = ["algorithm.options.min_sequences=1000", f"algorithm.options.replay_bytes={room}", "learner.mode=async"]
    updates = [Played(configured(*words), unrolls, monkeypatch).learner.counters.updates for unrolls in (5, 9)]
    assert updates[0] == 0 < updates[1]


def test_values_that_are_not_finite_are_refused_and_end_nothing(monkeypatch: pytest.MonkeyPatch):
    run = local_run(configured("learner.mode=async"))
    assert isinstance(run.plan, QPlan)
    learner = run.plan.resume(run.first)
    for _ in range(8):
        learner.add(run.unroll(0, learner.snapshot()))
    updates = learner.counters.updates
    assert updates > 0
    learner._network.value_head.bias.data.fill_(float("inf"))
    learner.counters.version += 1
    weights = learner.snapshot()
    for _ in range(30):
        learner._owed += 24
        learner._updates()
    assert len(learner.replay) == 0, "what was drawn is not drawn again"
    receipt = learner.add(run.unroll(0, weights))
    run.fleet.close()
    assert (receipt.verdict, receipt.update) == (Verdict.REFUSED, None)
    assert receipt.reason.endswith("was played by values that are not finite")
    assert learner.counters.updates == updates


def test_as_much_is_learned_from_as_the_ratio_says_and_the_target_follows(monkeypatch: pytest.MonkeyPatch):
    words = ["learner.mode=async", "algorithm.options.replay_ratio=2.5", "algorithm.options.target_period=3"]
    config = configured(*words)
    run = local_run(config)
    learner = LocalLearner(run.plan, run.first)
    targets = []
    schedule = SCHEDULES["async"](run.fleet, learner, 1)
    for _ in range(60):
        next(schedule)
        targets.append(learner._learner._target_parameters.vector.clone())  # pyright: ignore[reportAttributeAccessIssue]
    counters = learner._learner.counters
    learned = counters.updates * 6 * 4
    since = counters.agent_steps - 3 * 3 * 4  # what came before there was enough to draw from
    assert abs(learned - 2.5 * since) <= 24 + 2.5 * 12
    assert counters.version == counters.updates > 30
    changes = sum(not torch.equal(one, other) for one, other in itertools.pairwise(targets))
    assert abs(changes - counters.updates // 3) <= 1
    run.fleet.close()


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_is_saved_goes_on_bit_for_bit_if_its_replay_is_saved_too(kept: bool):
    config = configured(f"algorithm.options.checkpoint_replay={kept}", "rule.refresh=4")

    def weights(interrupted: bool) -> tuple[torch.Tensor, int]:
        run = local_run(config)
        fleet, learner = run.fleet, LocalLearner(run.plan, run.first)
        rounds = 0
        while rounds < 14:
            schedule = SCHEDULES["sync"](fleet, learner, 1)
            for progress in schedule:
                rounds += bool(progress.receipts)
                if rounds in (9, 14):
                    break
            if rounds == 9 and interrupted:
                state, fleet_state = pickle.loads(pickle.dumps((learner.get_state(), fleet.get_state())))
                fleet.close()
                again = local_run(config, fleet_state)
                fleet, learner = again.fleet, LocalLearner(again.plan, state)
        fleet.close()
        return learner.weights.vector, learner.weights.version

    (whole, versions), (parts, fewer) = weights(interrupted=False), weights(interrupted=True)
    assert torch.equal(whole, parts) == kept
    assert (versions == fewer) == kept
    assert fewer > 0


@pytest.mark.parametrize("words", [[], ["network.core=lstm"]], ids=",".join)
def test_a_refreshed_state_is_what_the_present_weights_come_to_from_before_the_sequence(
    words: list[str], monkeypatch: pytest.MonkeyPatch
):
    """W steps before it, or as many as there are; each network by its own weights."""
    played = Played(configured("rule.refresh=8", *words), 7, monkeypatch)
    learner, drawn = played.learner, played.every_sequence()
    learner._parameters.vector.add_(0.1 * torch.randn_like(learner._parameters.vector))
    lengths = [0 if past is None else len(past.inputs) for past in drawn.pasts]
    assert lengths == [min(8, 4 * int(number)) for number in drawn.numbers]
    for network in (network_of(learner), learner._target):
        found = _begun(network, drawn.sequences, drawn.pasts)
        for of, past in enumerate(drawn.pasts):
            if past is None:
                expected = carried.select(drawn.sequences.before, torch.tensor([of]))
            else:
                expected = past.before
                for inputs, is_first in zip(past.inputs, past.is_first, strict=True):
                    cell = network.core.step(inputs[None].double(), expected.cell, is_first[None])[1]
                    expected = expected._replace(cell=cell)
            of_ours = carried.leaves(carried.select(found, torch.tensor([of])))
            for ours, theirs in zip(of_ours, carried.leaves(expected), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    stored = carried.leaves(drawn.sequences.before)
    refreshed = carried.leaves(_begun(network_of(learner), drawn.sequences, drawn.pasts))
    assert max(float((one - other).abs().max()) for one, other in zip(stored, refreshed, strict=True)) > 1e-3


def test_streams_of_all_actors_have_shares_of_chance_from_the_ladder():
    """``0.4 ** linspace(1, 8, 12)``, as seed_rl has it."""
    config = configured("fleet.num_actors=4")
    algorithm, found = find_algorithm(config.algorithm), []
    for actor_id in range(4):
        actor = algorithm.worker(config, ActorIdentity(actor_id, 0, config.seed), None)
        assert isinstance(actor, QActor)
        assert isinstance(actor.network.distribution, QValues)
        found.append(torch.as_tensor(actor.network.distribution.epsilon))
        actor.close()
    torch.testing.assert_close(torch.cat(found), 0.4 ** torch.linspace(1, 8, 12))
    assert ladder(0.4, 7.0, 0, 1, 1).tolist() == [0.4], "of a single one"
