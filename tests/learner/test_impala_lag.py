"""IMPALA where weights have changed in between: whose trajectory it was, what V-trace makes of it, what runs away, crosses and resumes."""

import pickle
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from local_run import double_precision, local_run

from actors.build import build_seeded_network
from actors.fleet import FleetState, LocalFleet
from actors.replay import ReplayedStem, replay
from actors.stem import FrozenStem, StemPass
from actors.trajectory import Observations, Trajectory, TrajectoryContribution
from actors.unroll import Unroll
from actors.wire import split
from conf.load import load_train
from conf.schema import TrainConfig
from envs.base import EnvSpec
from learner import trajectory_learner
from learner.algorithms import find_algorithm
from learner.clients import LocalLearner
from learner.receipts import Receipt, Verdict
from learner.schedules import SCHEDULES
from learner.trajectory_learner import TrajectoryLearner, TrajectoryPlan
from r2ac.monitoring.tally import Tally
from r2ac.training.sizing import sized
from rtrl_core import CoreState, FlatParameters, PolicyNetwork, WeightsSnapshot, carried
from rtrl_core.cores import GatedCore

TOY = (
    *("experiment=tmaze", "fleet=local", "logging=quiet", "algorithm=impala", "rule=tbptt", "learner=rmsprop"),
    *("network.num_units=5", "actors.num_envs=2", "actors.unroll=9", "loss.discount=0.95"),
)
LATE = (*TOY, "fleet.num_actors=4", "learner.mode=async", "learner.batch_segments=4", "learner.learning_rate=0.02")
"""Two contributions per update, and four on their way."""
POLE = ("env=gym/CartPole-v1", "env.max_episode_steps=14", "network.encoder=mlp", "network.features=4")
BREAKOUT = (
    *("env=atari/breakout", "env.image_size=36", "env.noop_max=0", "env.frame_skip=8", "env.max_frames=120"),
    *("network=impala", "network.encoder_options.channels=[2,2]", "network.features=4", "network.num_units=5"),
    *("fleet.num_actors=2", "learner.batch_segments=2", "actors.unroll=7"),
)
EXACT = ("rule=segment", "algorithm.options.ship=trajectories_s0")

pytestmark = pytest.mark.seconds


@pytest.fixture(autouse=True)
def _in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


class Arrival(NamedTuple):
    contribution: TrajectoryContribution
    weights: WeightsSnapshot
    """Of the learner, when it came."""
    gradient: torch.Tensor
    receipt: Receipt


class NotingLearner(LocalLearner[TrajectoryContribution]):
    """Notes what arrives, under which weights, and what is made of it."""

    def __init__(self, plan: TrajectoryPlan, state: dict[str, Any]) -> None:
        super().__init__(plan, state)
        self.arrivals: list[Arrival] = []
        self.vectors = {self.weights.version: self.weights.vector}

    def send(self, contribution: TrajectoryContribution) -> None:
        before = self.weights
        super().send(contribution)
        self.arrivals.append(Arrival(contribution, before, gradient_of(self._learner), self._receipts[-1]))
        self.vectors[self.weights.version] = self.weights.vector


def gradient_of(learner: Any) -> torch.Tensor:
    assert isinstance(learner, TrajectoryLearner)
    return learner.parameters.gradient.clone()


class Run(NamedTuple):
    config: TrainConfig
    spec: EnvSpec
    plan: TrajectoryPlan
    first: dict[str, Any]
    """State of the learner."""
    arrivals: list[Arrival]
    vectors: dict[int, torch.Tensor]
    """Weights by version."""

    @property
    def last(self) -> torch.Tensor:
        return self.vectors[max(self.vectors)]

    def network(self, version: int = 0) -> tuple[PolicyNetwork, FlatParameters]:
        network = build_seeded_network(self.config.network, self.config.rule, self.spec, self.config.seed)
        parameters = FlatParameters(network)
        parameters.load(self.vectors[version])
        return network, parameters

    def learner(self) -> TrajectoryLearner:
        """As it was at the start."""
        return self.plan.resume(self.first)


@cache
def ran(*words: str, arrivals: int = 12) -> Run:
    """From words to weights as the program goes, until so many contributions have come."""
    config = sized(load_train(list(words)), cores=1)
    run = local_run(config)
    assert isinstance(run.plan, TrajectoryPlan)
    learner = NotingLearner(run.plan, run.first)
    schedule = SCHEDULES[config.learner.mode](run.fleet, learner, 1)
    while len(learner.arrivals) < arrivals:
        next(schedule)
    run.fleet.close()
    return Run(config, run.spec, run.plan, run.first, learner.arrivals, learner.vectors)


def log_ratios(run: Run, trajectory: Trajectory, version: int) -> torch.Tensor:
    network, _ = run.network(version)
    return replay(network, trajectory, ReplayedStem(FrozenStem(StemPass(network, None)), 4)).log_ratios


class Slow(NamedTuple):
    """What a trajectory is worth, from the mathematics."""

    gradient: torch.Tensor
    statistics: dict[str, float]


def slowly(network: PolicyNetwork, parameters: FlatParameters, trajectory: Trajectory, config: TrainConfig) -> Slow:
    """One step after the other under autograd, from ``c_0``; then one target after the other, each as its sum."""
    loss, steps, streams = config.loss, trajectory.num_steps, trajectory.num_envs
    observations, no = trajectory.observations.unpack(), torch.zeros(streams, dtype=torch.bool)

    def step(
        observation: torch.Tensor, reward: torch.Tensor, action: torch.Tensor, first: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = network.core_inputs(network.encode(observation), reward, action, first)
        cell, hidden = elstm(network, inputs, torch.where(first[:, None], torch.zeros_like(cell), cell))
        output = network.heads(hidden)
        return output.parameters, output.values, cell

    cell: torch.Tensor = trajectory.before.cell
    values, log_policy, entropies, cut = [], [], [], {}
    for t in range(steps + 1):
        for k, (row, b) in enumerate(trajectory.cut_places.tolist()):
            if row == t - 1:
                reward, action = trajectory.last_rewards[t, [b]], trajectory.last_actions[t, [b]]
                cut[row, b] = step(trajectory.cut_observations[[k]], reward, action, no[[b]], cell[[b]])[1].item()
        seen = observations[t], trajectory.last_rewards[t], trajectory.last_actions[t], trajectory.is_first[t]
        logits, value, cell = step(*seen, cell)
        values.append(value)
        if t == steps:
            break
        probabilities = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
        chosen = probabilities.gather(-1, trajectory.last_actions[t + 1].unsqueeze(-1)).squeeze(-1)
        log_policy.append(torch.log(chosen))
        entropies.append(-(probabilities * torch.log(probabilities)).sum(-1))
    following = torch.stack(values[1:]).detach()
    for place, value in cut.items():
        following[place] = value

    rewards = trajectory.last_rewards[1:].double()
    ratios = torch.exp(torch.stack(log_policy).detach() - trajectory.noted)
    rho, c = ratios.clamp(max=1), ratios.clamp(max=1)
    baseline, gamma = torch.stack(values[:-1]).detach(), loss.discount
    terminated, truncated, valid = trajectory.terminated, trajectory.truncated, trajectory.valid

    def target(s: int, b: int) -> float:
        total = float(baseline[s, b])
        for t in range(s, steps):
            if not valid[t, b]:
                break
            after = 0.0 if terminated[t, b] else gamma * following[t, b]
            delta = rho[t, b] * (rewards[t, b] + after - baseline[t, b])
            total += gamma ** (t - s) * float(c[s:t, b].prod()) * float(delta)
            if terminated[t, b] or truncated[t, b]:
                break
        return total

    policy_loss, value_loss, entropy, targets = torch.zeros(()), torch.zeros(()), torch.zeros(()), []
    for s, b in valid.nonzero().tolist():
        targets.append(target(s, b))
        ends = terminated[s, b] or truncated[s, b] or s == steps - 1
        beyond = 0.0 if terminated[s, b] else following[s, b] if ends else target(s + 1, b)
        advantage = rho[s, b] * (rewards[s, b] + gamma * beyond - baseline[s, b])
        policy_loss = policy_loss - advantage * log_policy[s][b]
        value_loss = value_loss + 0.5 * (targets[-1] - values[s][b]) ** 2
        entropy = entropy + entropies[s][b]
    parameters.gradient.zero_()
    (policy_loss + loss.baseline_cost * value_loss - loss.entropy_cost * entropy).backward()
    statistics = {
        "policy_loss": policy_loss.item(),
        "value_loss": value_loss.item(),
        "entropy": entropy.item(),
        "target_sum": sum(targets),
        "target_square_sum": sum(number**2 for number in targets),
        "error_square_sum": 2 * value_loss.item(),
        "importance_sum": ratios[valid].sum().item(),
        "importance_clipped": int((ratios[valid] > 1).sum()),
    }
    return Slow(parameters.gradient.clone(), statistics)


def elstm(network: PolicyNetwork, inputs: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``c_t`` and what is read of it (Irie et al. 2024, equations 5-7)."""
    core = network.core
    assert isinstance(core, GatedCore)
    (forget, candidate), vectors = core.core.get_parameter("matrices"), core.core.get_parameter("vectors")
    f = torch.sigmoid(inputs @ forget.T + vectors[0] * cell + vectors[2])
    z = torch.tanh(inputs @ candidate.T + vectors[1] * cell + vectors[3])
    cell = f * cell + (1 - f) * z
    return cell, torch.sigmoid(core.gate(torch.cat([inputs, cell], -1))) * cell


@pytest.mark.parametrize("words", [(*LATE, *POLE), (*LATE, *POLE, *EXACT), (*LATE, *POLE, "network.core=lstm")])
def test_a_trajectory_is_that_of_the_weights_it_names_and_of_no_others(words: tuple[str, ...]):
    run = ran(*words)
    lags = [arrival.receipt.lag for arrival in run.arrivals]
    assert {0, 1, 2} <= {*lags}
    for arrival in run.arrivals:
        trajectory, version = arrival.contribution.trajectory, arrival.contribution.header.policy_version
        assert arrival.receipt.lag == arrival.weights.version - version
        assert log_ratios(run, trajectory, version).abs().max() < 1e-9
        for other in run.vectors.keys() - {version}:
            assert log_ratios(run, trajectory, other).abs().max() > 1e-4, (version, other)


@pytest.mark.parametrize(
    "words",
    [
        (*LATE, *POLE),
        (*LATE, *POLE, "loss.baseline_cost=2", "loss.entropy_cost=0.3", "learner.clip_norm=0.5"),
        (*LATE, *BREAKOUT),
    ],
    ids=["pole", "costs", "breakout"],
)
def test_gradients_statistics_and_weights_are_those_of_the_mathematics(words: tuple[str, ...]):
    run = ran(*words)
    network, parameters = run.network()
    options, batch, mean_square, updates = run.config.learner, torch.zeros(()), torch.zeros(()), 0
    for arrival in run.arrivals:
        trajectory, statistics = arrival.contribution.trajectory, asdict(arrival.receipt.statistics)
        found = slowly(network, parameters, trajectory, run.config)
        torch.testing.assert_close(arrival.gradient, found.gradient, rtol=1e-9, atol=1e-9)
        if arrival.receipt.lag == 0:  # the ratio is one, and rounding says on which side
            statistics["importance_clipped"] = found.statistics["importance_clipped"]
        for name, number in found.statistics.items():
            assert statistics[name] == pytest.approx(number, rel=1e-9, abs=1e-9), name
        batch = batch + found.gradient
        if arrival.receipt.update is None:
            continue
        if batch.norm() > options.clip_norm:
            batch = batch * options.clip_norm / batch.norm()
        mean_square = options.rmsprop_decay * mean_square + (1 - options.rmsprop_decay) * batch**2
        step = batch / (mean_square.sqrt() + options.rmsprop_epsilon)
        parameters.vector -= arrival.receipt.update.learning_rate * step
        batch, updates = torch.zeros(()), updates + 1
        torch.testing.assert_close(run.vectors[updates], parameters.vector, rtol=1e-9, atol=1e-9)
    assert updates == len(run.vectors) - 1 >= 5
    for ends in ("terminated", "truncated"):
        assert any(getattr(arrival.contribution.trajectory, ends)[:-1].any() for arrival in run.arrivals), ends
    clipped = [arrival.receipt.statistics.importance_clipped for arrival in run.arrivals if arrival.receipt.lag]
    assert 0 < sum(clipped) < sum(arrival.receipt.header.num_steps for arrival in run.arrivals if arrival.receipt.lag)


def test_without_importance_weights_the_weights_would_be_others(monkeypatch: pytest.MonkeyPatch):
    run = ran(*LATE, *POLE)

    def learned() -> torch.Tensor:
        learner = run.learner()
        for arrival in run.arrivals:
            learner.add(arrival.contribution)
        return learner.snapshot().vector

    assert torch.equal(learned(), run.last)

    def as_if_on_policy(*arguments: Any) -> Unroll:
        unroll = replay(*arguments)
        unroll.log_ratios.zero_()
        return unroll

    monkeypatch.setattr(trajectory_learner, "replay", as_if_on_policy)
    assert (learned() - run.last).abs().max() > 1e-4


def test_what_is_too_late_changes_nothing_and_its_losses_are_not_reported():
    run = ran(*LATE, *POLE, "learner.max_lag=1", "learner.batch_segments=2")
    verdicts = [arrival.receipt.verdict for arrival in run.arrivals]
    assert {*verdicts} == {Verdict.ACCEPTED, Verdict.DROPPED}
    learner, tally, receipts = run.learner(), Tally((), 1000), []
    for arrival in run.arrivals:
        before = learner.get_state()
        receipts.append(learner.add(arrival.contribution))
        assert receipts[-1].verdict == arrival.receipt.verdict
        if receipts[-1].verdict is Verdict.DROPPED:
            assert receipts[-1].lag > 1
            after = learner.get_state()
            assert all(torch.equal(before[name], after[name]) for name in ("weights", "sum"))
            assert all(torch.equal(old, after["optimizer"][name]) for name, old in before["optimizer"].items())
            assert receipts[-1].counters.agent_steps == before["counters"]["agent_steps"]
            assert receipts[-1].update is None
    tally.add(receipts)
    row = tally.row({})
    learned = [receipt for receipt in receipts if receipt.verdict is Verdict.ACCEPTED]
    steps = sum(receipt.header.num_steps for receipt in learned)
    assert row["dropped_share"] == pytest.approx(1 - len(learned) / len(receipts))
    names = {name: name for name in ("policy_loss", "value_loss", "entropy")} | {"importance_mean": "importance_sum"}
    for column, name in names.items():
        assert row[column] == pytest.approx(sum(getattr(part.statistics, name) for part in learned) / steps)
    assert row["contributions_dropped"] == len(receipts) - len(learned)


BAD = 1
"""Number of the stream whose numbers run away."""


def without_bad(trajectory: Trajectory) -> Trajectory:
    keep = torch.arange(trajectory.num_envs) != BAD
    assert not len(trajectory.cut_places)
    rows = {
        name: part[:, keep]
        for name, part in trajectory._asdict().items()
        if isinstance(part, torch.Tensor) and not name.startswith("cut_")
    }
    observations = Observations.pack(trajectory.observations.unpack()[:, keep], "vector")
    return trajectory._replace(observations=observations, before=trajectory.before.of(keep), **rows)


def broken(trajectory: Trajectory, what: str, number: float) -> Trajectory:
    """With one such number in one stream."""
    trajectory = carried.map_leaves(torch.clone, trajectory)
    match what:
        case "reward":
            trajectory.last_rewards[3, BAD] = number
        case "observation":
            trajectory.observations.rows[2, BAD] = number
        case "log_prob":
            trajectory.noted[4, BAD] = number
        case "state":
            trajectory.before.cell[BAD] = number
        case "sensitivity":
            next(carried.leaves(trajectory.before.sensitivity))[BAD] = number
        case _:
            raise AssertionError(what)
    return trajectory


MAZE = (*TOY, "env.corridor=3", "actors.num_envs=3", "fleet.num_actors=1", "learner.mode=sync")


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("reward", np.inf),
        ("reward", np.nan),
        ("observation", np.inf),
        ("observation", np.nan),
        ("log_prob", np.nan),
        ("state", np.inf),
        ("sensitivity", np.nan),
    ],
)
def test_a_stream_that_ran_away_is_left_out_and_the_others_are_learned_from(what: str, number: float):
    run = ran(*MAZE, *EXACT, arrivals=3)
    *earlier, last = [arrival.contribution for arrival in run.arrivals]
    gradients, statistics = [], []
    for trajectory in (broken(last.trajectory, what, number), without_bad(last.trajectory)):
        learner = run.learner()
        for contribution in earlier:
            learner.add(contribution)
            learner.finish_round()
        receipt = learner.add(replace(last, trajectory=trajectory))
        gradients.append(gradient_of(learner))
        statistics.append(receipt.statistics)
        assert receipt.verdict is Verdict.ACCEPTED
        assert learner.finish_round().update is not None
        assert learner.snapshot().vector.isfinite().all()
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    for name in ("policy_loss", "value_loss", "entropy", "target_sum", "importance_sum", "importance_clipped"):
        assert getattr(statistics[0], name) == pytest.approx(getattr(statistics[1], name)), name
    assert [of_one.streams_reset for of_one in statistics] == [1, 0]


def test_an_observation_that_is_no_number_spoils_what_an_encoder_learns_as_it_does_in_r2ac():
    run = ran(*MAZE, *EXACT, "network.encoder=mlp", "network.features=4", arrivals=2)
    learner, contribution = run.learner(), run.arrivals[0].contribution
    before = learner.get_state()
    receipt = learner.add(replace(contribution, trajectory=broken(contribution.trajectory, "observation", np.nan)))
    assert receipt.verdict is Verdict.REFUSED
    assert "not finite in encoder." in receipt.reason
    assert learner.finish_round().update is None
    assert torch.equal(learner.get_state()["weights"], before["weights"])
    again = learner.add(run.arrivals[1].contribution)  # nothing of the one before is left
    assert again.verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    "words",
    [(*LATE, *POLE), (*LATE, *POLE, *EXACT), (*LATE, *BREAKOUT), (*LATE, "env.corridor=3", "network.core=feedforward")],
    ids=["tbptt", "s0", "breakout", "feedforward"],
)
def test_what_crosses_the_wire_is_whole_and_nobody_writes_to_it(words: tuple[str, ...]):
    run = ran(*words)
    learner = run.learner()
    for arrival in run.arrivals:
        envelope, arrays = split(arrival.contribution)
        sent = {name: array.copy() for name, array in arrays.items()}
        for array in sent.values():
            array.flags.writeable = False
        crossed = pickle.loads(pickle.dumps(envelope)).enclose(sent)
        assert crossed.header == arrival.contribution.header
        assert crossed.statistics == arrival.contribution.statistics
        assert crossed.size_bytes == arrival.contribution.size_bytes == sum(array.nbytes for array in sent.values())
        ours, theirs = crossed.trajectory, arrival.contribution.trajectory
        assert type(ours.observations) is Observations
        assert type(ours.before) is CoreState
        assert (ours.cut_instructions, ours.instructions) == (None, None)
        assert all(map(torch.equal, carried.leaves(ours), carried.leaves(theirs)))
        assert torch.equal(ours.observations.unpack(), theirs.observations.unpack())
        receipt = learner.add(crossed)
        assert replace(receipt, busy_s=0) == replace(arrival.receipt, busy_s=0)
        assert all((sent[name] == array).all() for name, array in split(arrival.contribution)[1].items())
        assert all((sent[name] == array).all() for name, array in arrays.items())
    assert torch.equal(learner.snapshot().vector, run.last)


@pytest.mark.parametrize("words", [(*LATE, *POLE), (*LATE, *POLE, *EXACT, "learner=adam")], ids=["tbptt", "s0"])
def test_a_learner_goes_on_from_the_middle_of_a_batch_bit_for_bit(words: tuple[str, ...]):
    run = ran(*words)
    learner = run.learner()
    for arrival in run.arrivals[:5]:
        learner.add(arrival.contribution)
    assert run.arrivals[4].receipt.update is None
    learner = run.plan.resume(pickle.loads(pickle.dumps(learner.get_state())))
    receipts = [learner.add(arrival.contribution) for arrival in run.arrivals[5:]]
    for receipt, arrival in zip(receipts, run.arrivals[5:], strict=True):
        assert replace(receipt, busy_s=0) == replace(arrival.receipt, busy_s=0)
    assert torch.equal(learner.snapshot().vector, run.last)


@pytest.mark.parametrize(
    "words",
    [MAZE, (*MAZE, *EXACT, "env.corridor=20", "rule.refresh=10", "rule.refresh_every=1", "learner=adam")],
    ids=["tbptt", "refreshed"],
)
def test_a_run_that_is_saved_in_the_middle_ends_where_it_would_have_ended(words: tuple[str, ...]):
    run = ran(*words, arrivals=5)
    algorithm = find_algorithm(run.config.algorithm)
    learner, state = LocalLearner(run.plan, run.first), FleetState()
    for rounds in (2, 3):
        fleet = LocalFleet(run.config, 1, state, print, partial(algorithm.worker, run.config))
        schedule = SCHEDULES["sync"](fleet, learner, 1)
        for _ in range(rounds):
            next(schedule)
        state, saved = pickle.loads(pickle.dumps((fleet.get_state(), learner.get_state())))
        learner = LocalLearner(run.plan, saved)
    assert learner.weights.version == 5
    assert torch.equal(learner.weights.vector, last_of(run))


def last_of(run: Run) -> torch.Tensor:
    """Weights after the last round, which the client is told of when it is over."""
    learner = run.learner()
    for arrival in run.arrivals:
        learner.add(arrival.contribution)
        learner.finish_round()
    return learner.snapshot().vector
