"""IMPALA against R2AC: where no weights have changed in between, one is the other, whatever is shipped, played and learned with."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from local_run import double_precision, local_run

from actors.trajectory import Trajectory, TrajectoryContribution
from conf.load import load_train
from conf.schema import AlgorithmConfig, TrainConfig
from learner import trajectory_learner
from learner.clients import LocalLearner
from learner.receipts import Receipt
from learner.schedules import SCHEDULES
from r2ac.training.sizing import sized
from rtrl_core import carried
from rtrl_core.policies import DiagonalGaussian

TOY = ["fleet=local", "actors.unroll=5", "learner.mode=sync", "logging=quiet"]
SMALL = ["experiment=tmaze", "actors.num_envs=4", "fleet.num_actors=1", "network.num_units=6"]
MAZE = [*SMALL, "env.corridor=3"]
POLE = [*SMALL, "env=gym/CartPole-v1", "env.max_episode_steps=12", "network.encoder=mlp", "network.features=5"]
"""Poles that fall and games that are cut off, the one as often as the other."""
BREAKOUT = [
    *("experiment=tmaze", "env=atari/breakout", "env.image_size=36", "env.noop_max=0", "network=impala"),
    *("network.encoder_options.channels=[2,2]", "network.features=5", "network.num_units=4", "fleet.num_actors=1"),
    *("actors.num_envs=2", "actors.unroll=8", "env.frame_skip=8", "env.max_frames=180"),
]
"""Lives that are soon lost and games that are soon cut off."""
TBPTT = ["rule=tbptt", "algorithm=impala", "algorithm.options.ship=trajectories"]
EXACT = ["rule=segment", "algorithm=impala", "algorithm.options.ship=trajectories_s0"]

pytestmark = pytest.mark.seconds


@pytest.fixture(autouse=True)
def _in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


def as_it_is(sent: Any) -> Any:
    return sent


class NotingLearner(LocalLearner[Any]):
    """Notes what arrives, and what is answered; ``alter`` is what happens to it on its way."""

    def __init__(self, plan: Any, state: dict[str, Any], alter: Callable[[Any], Any]) -> None:
        super().__init__(plan, state)
        self.sent: list[Any] = []
        self._alter = alter

    def send(self, contribution: Any) -> None:
        self.sent.append(self._alter(contribution))
        super().send(self.sent[-1])


class Run(NamedTuple):
    """From words to weights, as the program goes."""

    first: torch.Tensor
    weights: torch.Tensor
    receipts: list[Receipt]
    sent: list[Any]

    @property
    def trajectories(self) -> list[Trajectory]:
        return [contribution.trajectory for contribution in self.sent]


def trained(config: TrainConfig, updates: int = 3, alter: Callable[[Any], Any] = as_it_is) -> Run:
    run = local_run(config)
    learner = NotingLearner(run.plan, run.first, alter)
    receipts: list[Receipt] = []
    for progress in SCHEDULES["sync"](run.fleet, learner, 1):
        receipts += progress.receipts
        if learner.weights.version == updates:
            break
    run.fleet.close()
    return Run(run.vector, learner.weights.vector, receipts, learner.sent)


def configured(words: list[str]) -> TrainConfig:
    return sized(load_train([*TOY, *words]), cores=1)


def compared(words: list[str], updates: int = 3, rtol: float = 1e-9, atol: float = 1e-11) -> Run:
    """The run of IMPALA, after a look at what R2AC makes of the same words."""
    config = configured(words)
    ours = trained(config, updates)
    theirs = trained(replace(config, algorithm=AlgorithmConfig()), updates)
    assert (ours.weights - ours.first).abs().max() > 1e-4
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=rtol, atol=atol)
    for one, other in zip(ours.receipts, theirs.receipts, strict=True):
        assert one.header == other.header
        assert one.lag == 0
        for name in ("policy_loss", "value_loss", "entropy", "target_sum", "sensitivity_norm"):
            expected = getattr(other.statistics, name)
            assert getattr(one.statistics, name) == pytest.approx(expected, rel=10 * rtol, abs=rtol), name
        assert one.statistics.episodes == other.statistics.episodes
        assert one.statistics.importance_sum == pytest.approx(one.header.num_steps, rel=10 * rtol)
        assert other.statistics.importance_sum is None
    return ours


def ended(run: Run) -> tuple[int, int, int]:
    """Inside unrolls: episodes that terminated, episodes that were cut off with a row to go, rows that are no transitions."""
    inside = [(part.terminated[:-1] & part.valid[:-1]).sum() for part in run.trajectories]
    cut = [(part.cut_places[:, 0] < part.num_steps - 1).sum() for part in run.trajectories]
    ignored = [(~part.valid).sum() for part in run.trajectories]
    return int(sum(inside)), int(sum(cut)), int(sum(ignored))


@pytest.mark.parametrize(
    ("core", "rule", "num_actors"),
    [
        ("elstm", "segment", 3),
        ("elstm", "tbptt", 1),
        ("lstm", "tbptt", 3),
        ("lstm", "snap1", 1),
        ("feedforward", "tbptt", 2),
        ("slstm", "segment", 1),
    ],
)
def test_without_lag_its_weights_are_those_of_r2ac(core: str, rule: str, num_actors: int):
    carries = core != "feedforward" and rule != "tbptt"
    words = [*(EXACT if carries else TBPTT), f"network.core={core}", f"rule={rule}", f"fleet.num_actors={num_actors}"]
    run = compared([*MAZE, *words])
    assert len(run.receipts) == 3 * num_actors


@pytest.mark.parametrize("ship", [TBPTT, EXACT])
def test_episodes_that_end_and_that_are_cut_off_inside_unrolls_are_valued_as_r2ac_values_them(ship: list[str]):
    words = [*POLE, *ship, "actors.unroll=13", "network.last_action=true"]
    run = compared(words)
    terminated, cut, ignored = ended(run)
    assert min(terminated, cut) > 0
    assert ignored == 0
    assert len([episode for one in run.receipts for episode in one.statistics.episodes]) >= terminated + cut

    def without_what_was_last_seen(sent: TrajectoryContribution) -> TrajectoryContribution:
        trajectory = sent.trajectory
        return replace(sent, trajectory=trajectory._replace(cut_observations=9 - trajectory.cut_observations))

    other = trained(configured(words), alter=without_what_was_last_seen)
    assert (other.weights - run.weights).abs().max() > 1e-6, "what is bootstrapped from matters"


def test_stacks_of_frames_that_begin_anew_come_whole_and_the_others_do_not():
    run = compared([*BREAKOUT, *EXACT])
    terminated, cut, ignored = ended(run)
    assert min(terminated, cut, ignored) > 0, "a life is lost, a game is cut off, both are opened by presses"
    sizes = [carried.size_bytes(trajectory.observations) for trajectory in run.trajectories]
    whole = run.trajectories[0].observations.unpack()
    assert whole.shape == (9, 2, 4, 36, 36)
    assert max(sizes) < whole.numel()
    assert min(sizes) < 0.6 * whole.numel(), "where no episode begins inside"
    assert all(trajectory.is_first[1:].any() for trajectory in run.trajectories[:-1])


def test_levels_with_instructions_and_squashed_rewards_are_learned_as_r2ac_learns_them(lab: None):
    words = ["experiment=dmlab30_rtrl", "env.levels=[language_answer_quantitative_question]", "env.wait_for_reset=true"]
    words += ["env.width=8", "env.height=8", "network.encoder_options.channels=[2]", "network.features=4"]
    words += ["network.num_units=4", "actors.num_envs=2", "actors.autocast=float32", "actors.unroll=9"]
    run = compared([*words, "fleet.num_actors=1", *EXACT])
    config = configured([*words, *EXACT])
    assert (config.env.reward_clip, config.network.last_action) == ("asymmetric", True)
    terminated, cut, _ = ended(run)
    assert min(terminated, cut) > 0
    for trajectory in run.trajectories:
        said, cut_said = trajectory.instructions, trajectory.cut_instructions
        assert said is not None
        assert cut_said is not None
        assert len(said.flatten(0, 1).unique(dim=0)) > 2, "each episode has its own"
        rows, streams = trajectory.cut_places.unbind(1)
        assert torch.equal(cut_said, said[rows, streams]), "and what was cut off keeps it"
    assert any((trajectory.last_rewards % 1).any() for trajectory in run.trajectories), "squashed"


def test_several_choices_at_once_are_learned_from_as_r2ac_learns_from_them():
    words = ["env=gym/own_envs:Guess-v0", "env.kwargs.action=multi-discrete", "network.last_action=true"]
    run = compared([*SMALL, *words, *EXACT])
    assert run.trajectories[0].last_actions.shape == (6, 4, 2)


def test_actions_that_are_vectors_are_learned_from_as_r2ac_learns_from_them(monkeypatch: pytest.MonkeyPatch):
    sample = DiagonalGaussian.sample

    def in_single_precision(*arguments: Any) -> torch.Tensor:
        """As environments take them: R2AC's unroll keeps no more."""
        return sample(*arguments).float()

    monkeypatch.setattr(DiagonalGaussian, "sample", in_single_precision)
    words = ["env=gym/Pendulum-v1", "env.max_episode_steps=7", "network.last_action=true"]
    run = compared([*SMALL, *words, *EXACT])
    assert run.trajectories[0].last_actions.shape == (6, 4, 1)
    assert len(run.trajectories[-1].last_actions.unique()) > 6
    assert ended(run)[1] > 0


@pytest.mark.parametrize(
    "words",
    [
        ["network.layers=2"],
        ["network.layers=2", "rule.across_layers=exact"],
        ["network.critic=separate", "network.last_action=true"],
        ["network.critic=separate", "network.layers=2", "network.core=lstm", *TBPTT],
        ["network.normalise_outputs=true", "network.last_reward=false", *TBPTT],
        ["network.core=lru", "network.encoder=stream_mlp", "network.features=4"],
        ["network.head_sizes=[7,5]"],
        ["network.critic=separate", "network.head_sizes=[6]"],
        ["network.encoder=mlp", "network.features=4", "network.freeze_encoder=true"],
        [
            "learner=rmsprop",
            "learner.clip_norm=0.5",
            "loss.discount=0.9",
            "loss.trace_decay=0.8",
            "loss.baseline_cost=2",
        ],
    ],
    ids=" ".join,
)
def test_whatever_is_learned_with_the_weights_are_those_of_r2ac(words: list[str]):
    compared([*MAZE, *EXACT, *words])


def test_a_refreshed_sensitivity_is_what_is_shipped():
    words = [*MAZE, *EXACT, "env.corridor=20"]
    run = compared([*words, "rule.refresh=7", "rule.refresh_every=1"], updates=5)
    other = trained(configured(words), updates=5)
    assert (other.weights - run.weights).abs().max() > 1e-7, "it was refreshed"
    kinds = [type(one.trajectories[-1].before.sensitivity) for one in (run, other)]
    assert kinds[0] is kinds[1], "and the anchor stays with the actor"


@pytest.mark.parametrize("activations", ["retain", "recompute"])
def test_activations_may_be_kept_or_computed_again(activations: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trajectory_learner, "rows_at_once", lambda device: 9)
    compared([*POLE, *EXACT, f"actors.activations={activations}"])


@pytest.mark.parametrize("words", [[*MAZE, *TBPTT], [*POLE, *EXACT]])
def test_in_single_precision_it_is_as_near_as_that_allows(words: list[str]):
    torch.set_default_dtype(torch.float32)
    run = compared([*words, "learner=rmsprop"], rtol=1e-5, atol=1e-6)
    assert run.weights.dtype == torch.float32
