"""The actor's contracts: nothing is lost at episode ends, and a contribution is the exact gradient."""

from typing import Literal

import numpy as np
import pytest
import torch
from counting_env import EPISODE, CountingEnv
from torch.nn import functional
from toy_actor import core_of, make_actor, present_weights
from unrolled import DIAGONAL_RULES

from actors.actor import Actor
from conf.knobs import ConfigError
from conf.schema import LossConfig, NetworkConfig
from envs.tmaze import TMaze
from rtrl_core import WeightsSnapshot

Habit = Literal["same_step", "next_step"]


def read_values_off_observations(actor: Actor) -> None:
    """Rigs a feed-forward network so that V(observation) is ``1000 episode + step``: values then tell which observation they are of."""
    actor.network.encoder.forward = lambda observation: observation.float()  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        actor.network.value_head.weight[:, :3].copy_(torch.tensor([[0.0, EPISODE, 1.0]]))
        actor.network.value_head.bias.zero_()


@pytest.mark.seconds
@pytest.mark.parametrize("unroll", [1, 3, 7])
@pytest.mark.parametrize("habit", ["same_step", "next_step"])
def test_no_transition_is_lost_doubled_or_credited_to_another_episode(habit: Habit, unroll: int):
    env = CountingEnv(num_envs=5, seed=3, habit=habit)
    network = NetworkConfig(
        encoder="mlp", mlp_sizes=[], features=3, core="feedforward", last_reward=False, freeze_encoder=True
    )
    actor = make_actor(env, unroll=unroll, network=network)
    read_values_off_observations(actor)
    weights = present_weights(actor)
    seen: list[tuple[int, int, int, bool, bool]] = []
    for _ in range(30):
        contribution = actor.unroll(weights)
        rows = actor.rollout.unroll
        assert contribution.header.num_steps == int(rows.valid.sum())
        assert contribution.header.num_frames == 2 * contribution.header.num_steps
        for t, b in rows.valid.nonzero().tolist():
            stream, episode, step = (int(number) for number in rows.inputs[t, b])
            assert rows.rewards[t, b] == EPISODE * episode + step
            assert rows.is_first[t, b] == (step == 0)
            terminated, truncated = bool(rows.terminated[t, b]), bool(rows.truncated[t, b])
            if (
                not terminated
            ):  # what followed is the same episode's next observation, also where the episode was cut off
                assert rows.next_values[t, b] == EPISODE * episode + step + 1
            seen.append((stream, episode, step, terminated, truncated))
    assert sorted(seen) == sorted(env.ledger)
    assert {True, False} == {terminated for *_, terminated, _ in seen} == {truncated for *_, truncated in seen}


@pytest.mark.seconds
@pytest.mark.parametrize("habit", ["same_step", "next_step"])
def test_a_cut_off_episode_is_valued_with_its_own_instruction(habit: Habit):
    env = CountingEnv(num_envs=5, seed=3, habit=habit, instructed=True)
    network = NetworkConfig(
        encoder="mlp", mlp_sizes=[], features=3, core="feedforward", last_reward=False, freeze_encoder=True
    )
    actor = make_actor(env, unroll=5, network=network)
    reader = actor.network.instruction_encoder
    assert reader is not None

    def as_numbers(words: torch.Tensor) -> torch.Tensor:
        nothing = 0 * reader.embedding.weight.sum()  # so that there is something to differentiate
        return functional.pad(words.float(), (0, reader.output_size - 1)) + nothing

    reader.forward = as_numbers
    read_values_off_observations(actor)
    with torch.no_grad():  # the episode's number is read off the instruction, the step off the observation
        actor.network.value_head.weight.zero_()
        actor.network.value_head.weight[0, 2], actor.network.value_head.weight[0, 3] = 1.0, EPISODE
    cut = 0
    for _ in range(20):
        actor.unroll(present_weights(actor))
        rows = actor.rollout.unroll
        for t, b in (rows.truncated & rows.valid).nonzero().tolist():
            _, episode, step = (int(number) for number in rows.inputs[t, b, :3])
            assert rows.next_values[t, b] == EPISODE * (episode + 1) + step + 1
            cut += 1
    assert cut > 10


@pytest.mark.seconds
@pytest.mark.parametrize("habit", ["same_step", "next_step"])
def test_episode_returns_and_lengths_are_those_of_the_ledger(habit: Habit):
    env = CountingEnv(num_envs=4, seed=5, habit=habit)
    actor = make_actor(env, unroll=5)
    weights = present_weights(actor)
    reported = [episode for _ in range(20) for episode in actor.unroll(weights).statistics.episodes]
    expected = []
    for stream in range(4):
        total, length = 0.0, 0
        for number, episode, step, terminated, truncated in env.ledger:
            if number != stream:
                continue
            total, length = total + EPISODE * episode + step, length + 1
            if terminated or truncated:
                expected.append((total, length))
                total, length = 0.0, 0
    assert sorted((episode.episode_return, episode.length) for episode in reported) == sorted(expected)


@pytest.mark.seconds
@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("rule", DIAGONAL_RULES)
@pytest.mark.parametrize("habit", ["same_step", "next_step"])
def test_contributions_add_up_to_backpropagation_through_whole_episodes(habit: Habit, rule: str, unroll: int):
    """Through whole episodes, or under ``tbptt`` through the unrolls that it is truncated to."""
    env = CountingEnv(num_envs=3, seed=1, habit=habit, lengths=(2, 9))
    actor = make_actor(env, unroll=unroll, rule=rule)
    weights = present_weights(actor)
    gated, core = core_of(actor.network)
    total = torch.zeros_like(actor.parameters.vector, dtype=torch.float64)
    inputs, is_first, actions, targets, valid, advantages = [], [], [], [], [], []
    for _ in range(20 // unroll):
        total += actor.unroll(weights).gradient
        rows = actor.rollout.unroll
        inputs.append(rows.inputs.clone())
        is_first.append(rows.is_first.clone())
        actions.append(rows.actions.clone())
        valid.append(rows.valid.clone())
        returns = recompute_returns(actor)
        targets.append(returns.targets)
        advantages.append(returns.advantages)

    matrices = core.matrices.detach().clone().requires_grad_()
    vectors = core.vectors.detach().clone().requires_grad_()
    state, states = torch.zeros(3, 6), []
    for t, (x, first) in enumerate(zip(torch.cat(inputs), torch.cat(is_first), strict=True)):
        if rule == "tbptt" and t % unroll == 0:
            state = state.detach()
        state = torch.where(first[:, None], torch.zeros_like(state), state)
        state = core.cell.forward(state, torch.stack([x @ matrix.t() for matrix in matrices], dim=1), vectors)
        states.append(state)
    cells = torch.stack(states)
    hidden = torch.sigmoid(gated.gate(torch.cat([torch.cat(inputs), cells], -1))) * cells
    logits, values = actor.network.policy_head(hidden), actor.network.value_head(hidden).squeeze(-1)
    log_policy = logits.log_softmax(-1)
    chosen = log_policy.gather(-1, torch.cat(actions).unsqueeze(-1)).squeeze(-1)
    entropy = -(log_policy.exp() * log_policy).sum(-1)
    per_step = -chosen * torch.cat(advantages) + 0.25 * (torch.cat(targets) - values).square() - 0.01 * entropy
    (per_step * torch.cat(valid)).sum().backward()
    slots = {slot.name: slot for slot in actor.parameters.layout.slots}
    for name, expected in (("core.core.matrices", matrices.grad), ("core.core.vectors", vectors.grad)):
        assert expected is not None
        difference = (slots[name].view(total) - expected).abs().max() / expected.abs().max()
        assert difference < 1e-4, name


def recompute_returns(actor: Actor):
    from rtrl_core import vtrace

    rows = actor.rollout.unroll
    return vtrace(
        log_ratios=torch.zeros_like(rows.values),
        rewards=rows.rewards,
        values=rows.values,
        next_values=rows.next_values,
        terminated=rows.terminated,
        truncated=rows.truncated,
        valid=rows.valid,
        discount=0.99,
    )


@pytest.mark.parametrize("activations", ["retain", "recompute"])
def test_an_unroll_ships_the_sum_of_what_its_steps_would_ship_one_by_one(activations: str):
    # Without a future (discount 0) the targets do not depend on where unrolls end: what remains is the gradient's algebra.
    loss = LossConfig(discount=0.0)
    whole = make_actor(TMaze(6, 1, corridor=3), unroll=12, loss=loss, activations=activations)
    contribution = whole.unroll(present_weights(whole)).gradient
    steps = make_actor(TMaze(6, 1, corridor=3), unroll=1, loss=loss, activations=activations)
    weights = present_weights(steps)
    one_by_one = torch.stack([steps.unroll(weights).gradient for _ in range(12)])
    stem = {slot.name for slot in whole.parameters.layout.parts()["stem"]}
    for slot in whole.parameters.layout.slots:
        if slot.name not in stem:  # the stem's gradient is truncated at the unroll, in the paper too
            torch.testing.assert_close(slot.view(one_by_one.sum(0)), slot.view(contribution), rtol=1e-4, atol=1e-5)


@pytest.mark.seconds
def test_two_actors_of_b_streams_contribute_what_one_of_2b_does():
    def env(streams: int, first: int) -> CountingEnv:
        return CountingEnv(streams, seed=2, first_stream=first)

    def gradient(streams: int, first: int) -> torch.Tensor:
        actor = make_actor(env(streams, first), greedy=True)
        weights = present_weights(actor)
        return sum((actor.unroll(weights).gradient for _ in range(4)), torch.zeros(()))

    torch.testing.assert_close(gradient(3, 0) + gradient(3, 3), gradient(6, 0), rtol=1e-4, atol=1e-2)


def test_retained_and_recomputed_activations_give_the_same_gradient():
    gradients = []
    for activations in ("retain", "recompute"):
        actor = make_actor(TMaze(8, 1, corridor=3), unroll=6, activations=activations)
        weights = present_weights(actor)
        gradients.append([actor.unroll(weights).gradient for _ in range(3)])
    for retained, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(retained, recomputed, rtol=1e-4, atol=1e-6)


def test_activations_are_kept_while_they_fit_the_budget():
    kinds = {}
    for budget in (0, 10**9):
        actor = make_actor(TMaze(8, 1, corridor=3), activations="auto", activation_budget_bytes=budget)
        kinds[budget] = type(actor.stem).__name__
    assert kinds == {0: "RecomputedStem", 10**9: "JoinedStem"}


def test_a_frozen_encoder_gets_no_gradient_and_the_rest_does():
    network = NetworkConfig(encoder="mlp", mlp_sizes=[8], features=5, num_units=6, freeze_encoder=True)
    actor = make_actor(TMaze(8, 1, corridor=3), network=network)
    gradient = actor.unroll(present_weights(actor)).gradient
    norms = {slot.name: float(slot.view(gradient).norm()) for slot in actor.parameters.layout.slots}
    assert all(norm == 0 for name, norm in norms.items() if name.startswith("encoder."))
    assert all(norm > 0 for name, norm in norms.items() if not name.startswith("encoder."))


def test_weights_are_loaded_only_if_newer():
    actor = make_actor(TMaze(4, 1, corridor=3))
    start = present_weights(actor)
    newer = WeightsSnapshot(3, start.layout, torch.full_like(start.vector, 0.01))
    assert actor.unroll(newer).header.policy_version == 3
    older = WeightsSnapshot(2, start.layout, start.vector)
    assert actor.unroll(older).header.policy_version == 3
    assert torch.equal(actor.parameters.vector, newer.vector)


def test_weights_of_another_network_are_refused():
    actor = make_actor(TMaze(4, 1, corridor=3))
    with pytest.raises(ValueError, match="weights of network other"):
        actor.unroll(WeightsSnapshot(0, "other", actor.parameters.vector.clone()))


def test_bytes_on_the_wire_depend_on_neither_unroll_nor_streams():
    sizes = set()
    for unroll, streams in ((1, 1), (5, 2), (9, 7)):
        actor = make_actor(TMaze(streams, 1, corridor=3), unroll=unroll)
        sizes.add(actor.unroll(present_weights(actor)).size_bytes)
    assert len(sizes) == 1


@pytest.mark.seconds
def test_bfloat16_on_the_wire_loses_nothing_in_the_long_run():
    exact = make_actor(TMaze(8, 1, corridor=3))
    rounded = make_actor(TMaze(8, 1, corridor=3), wire="bfloat16")
    weights = present_weights(exact)
    sent, total, largest = torch.zeros(exact.parameters.layout.size), torch.zeros(exact.parameters.layout.size), 0.0
    for _ in range(20):
        gradient, shipped = exact.unroll(weights).gradient, rounded.unroll(weights).gradient
        assert shipped.dtype == torch.bfloat16
        total += gradient
        sent += shipped.float()
        largest = max(largest, float(gradient.abs().max()))
    # bfloat16 has 8 bits: what is missing in the end is one rounding of one gradient, not twenty.
    assert 0 < (sent - total).abs().max() < 1.1 * largest * 2**-8


@pytest.mark.parametrize("unroll", [1, 3])
def test_an_actor_goes_on_bit_for_bit_from_its_saved_state_whatever_the_first_one_does_meanwhile(unroll: int):
    straight = make_actor(TMaze(4, 1, corridor=5), unroll=unroll)
    weights = present_weights(straight)
    for _ in range(4):
        straight.unroll(weights)
    state = straight.get_state()
    assert state is not None
    resumed = make_actor(TMaze(4, 99, corridor=5), unroll=unroll)
    resumed.set_state({**state, "now": {name: np.array(value) for name, value in state["now"].items()}})
    for _ in range(4):
        ours, theirs = straight.unroll(weights), resumed.unroll(weights)
        assert torch.equal(ours.gradient, theirs.gradient)
        assert ours.header == theirs.header
        assert ours.statistics.episodes == theirs.statistics.episodes


@pytest.mark.seconds
def test_the_age_of_the_sensitivity_counts_versions_since_the_episode_began():
    actor = make_actor(TMaze(2, 1, corridor=50), unroll=5)
    ages = [actor.unroll(present_weights(actor, version)).statistics.sensitivity_age_max for version in range(0, 12, 2)]
    assert ages == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(("corridor", "ages"), [(50, [0, 7, 14]), (1, [0, 0, 0])])
def test_a_sensitivity_that_holds_nothing_has_no_age_however_old_the_run_is(corridor: int, ages: list[int]):
    # A new actor's; and with a corridor of one step that of every unroll, because each begins with an episode.
    actor = make_actor(TMaze(2, 1, corridor=corridor), unroll=2)
    weights = [present_weights(actor, version) for version in (50_000, 50_007, 50_014)]
    assert [actor.unroll(snapshot).statistics.sensitivity_age_max for snapshot in weights] == ages


def test_the_size_of_what_the_core_reads_is_that_of_all_of_its_numbers():
    actor = make_actor(TMaze(2, 1, corridor=3), unroll=6)
    told = actor.unroll(present_weights(actor)).statistics.core_inputs_rms
    assert told == pytest.approx(float(np.sqrt(np.mean(np.square(actor.rollout.unroll.inputs.numpy())))))


def test_the_first_unroll_has_not_waited_for_weights_and_later_ones_have():
    actor = make_actor(TMaze(2, 1, corridor=5))
    weights = present_weights(actor)
    assert actor.unroll(weights).statistics.wait_time_s == 0.0
    assert actor.unroll(weights).statistics.wait_time_s > 0.0


def test_a_resumed_actor_loads_the_weights_of_version_zero():
    first = make_actor(TMaze(2, 1, corridor=5))
    first.unroll(present_weights(first))
    state = first.get_state()
    assert state is not None
    resumed = make_actor(TMaze(2, 1, corridor=5))
    resumed.set_state({**state, "now": {name: np.array(value) for name, value in state["now"].items()}})
    weights = present_weights(resumed)
    weights.vector.fill_(0.25)  # as after network.load_encoder: not what the seed gives
    assert resumed.unroll(weights).header.policy_version == 0
    assert torch.equal(resumed.parameters.vector, weights.vector)


def test_a_saved_state_that_does_not_fit_is_one_sentence():
    actor = make_actor(TMaze(3, 1, corridor=3))
    state = actor.get_state()
    assert state is not None
    with pytest.raises(ConfigError, match=r"^the saved state of an actor does not fit this network: expected [^\n]*$"):
        actor.set_state({**state, "cell": torch.zeros(3, 99)})
