"""Training as a whole, in one process: repeatable, resumable, and not stopped by what may die."""

import json
from pathlib import Path

import pytest
import torch
from counting_env import CountingEnv
from every_algorithm import IMPALA, R2D2
from tape import Tape

import actors.games
import actors.opening
from actors.fleet import FleetError, LocalFleet
from actors.graphs import GRAPHS
from actors.precision import carries_bfloat16_well
from conf.load import load_train
from conf.schema import TrainConfig
from learner.clients import LocalLearner
from learner.learner import Learner
from learner.receipts import Receipt, Update, Verdict
from r2ac.monitoring.sinks import Sinks, open_sinks
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import CheckpointError
from r2ac.training.loop import RunHooks, train
from rtrl_core import GradientContribution, WeightsSnapshot

TOY = [
    "experiment=tmaze",
    "env.corridor=4",
    "fleet=local",
    "fleet.num_actors=2",
    "actors.num_envs=4",
    "actors.unroll=3",
    "network.num_units=8",
    "network.encoder=mlp",
    "network.features=6",
    "logging=quiet",
    "logging.interval_steps=48",
    "logging.checkpoint_interval_steps=96",
]


def toy(*words: str) -> TrainConfig:
    return load_train([*TOY, *words])


class StopAfter(RunHooks):
    def __init__(self, times: int | None) -> None:
        self._left = times

    def should_stop(self) -> bool:
        if self._left is not None:
            self._left -= 1
        return self._left is not None and self._left < 0


def run(config: TrainConfig, run_dir: Path, stop_after: int | None = None) -> dict[str, float | int | None]:
    """Trains; ``stop_after`` is the number of times the loop may ask before it is told to stop."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open_sinks(config, run_dir, {}) as sinks:
        return train(config, run_dir, sinks, StopAfter(stop_after))


def weights(run_dir: Path) -> torch.Tensor:
    return checkpoints.load(checkpoints.find(run_dir)).vector


@pytest.mark.seconds
@pytest.mark.parametrize("mode", ["sync", "lockstep", "async"])
@pytest.mark.parametrize("pipeline", [1, 2])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(tmp_path: Path, mode: str, pipeline: int):
    words = (f"learner.mode={mode}", f"actors.pipeline={pipeline}", "total_steps=240")
    for name in ("a", "b"):
        run(toy(*words), tmp_path / name)
    assert torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    run(toy(*words, "seed=2"), tmp_path / "c")
    assert not torch.equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.seconds
@pytest.mark.parametrize("option", ["actors.wire=float32", "actors.wire=bfloat16", "actors.pipeline=2"])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path, option: str):
    words = ("learner.mode=sync", "total_steps=480", option)
    straight = run(toy(*words), tmp_path / "straight")
    run(toy(*words), tmp_path / "stopped", stop_after=9)
    before = checkpoints.load(checkpoints.find(tmp_path / "stopped"))
    assert 0 < before.agent_steps < 480
    resumed = run(toy(*words), tmp_path / "stopped")
    assert torch.equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    for name in (
        "agent_steps",
        "frames",
        "updates",
        "episodes",
        "mean_return_100",
        "contributions_accepted",
        "policy_version",
    ):
        assert resumed[name] == straight[name], name


@pytest.mark.seconds
def test_in_other_groups_of_streams_games_begin_anew_and_the_run_goes_on(tmp_path: Path):
    events: list[str] = []
    run(toy("learner.mode=sync", "total_steps=240"), tmp_path)
    for total_steps, pipeline in ((480, 2), (720, 1)):
        words = ("learner.mode=sync", f"total_steps={total_steps}", f"actors.pipeline={pipeline}")
        row = train(toy(*words), tmp_path, Sinks([], events.append), StopAfter(None))
        assert row["agent_steps"] == total_steps
    assert events.count("actors.pipeline changed since the checkpoint: actors begin new games") == 2


@pytest.mark.seconds
def test_lockstep_has_a_lag_of_exactly_one(tmp_path: Path):
    row = run(toy("learner.mode=lockstep", "total_steps=480"), tmp_path)
    assert row["policy_lag_max"] == 1


@pytest.mark.seconds
def test_sync_has_no_lag_and_one_update_per_round(tmp_path: Path):
    row = run(toy("learner.mode=sync", "total_steps=480"), tmp_path)
    assert (row["policy_lag_max"], row["updates"], row["contributions_accepted"]) == (0, 20, 40)
    assert row["agent_steps"] == 20 * 2 * 4 * 3


@pytest.mark.seconds
def test_a_run_leaves_its_rows_and_its_summary(tmp_path: Path):
    row = run(toy("total_steps=480"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) >= 5
    assert [line["agent_steps"] for line in lines] == sorted(line["agent_steps"] for line in lines)
    assert json.loads((tmp_path / "summary.json").read_text())["agent_steps"] == row["agent_steps"]


@pytest.mark.seconds
@pytest.mark.parametrize("graphs", ["auto", "never"])
def test_a_run_records_whether_its_passes_were_graphs_and_learns_the_same(
    tmp_path: Path, graphs: str, monkeypatch: pytest.MonkeyPatch
):
    """On a tape, where there is no device with graphs: of the whole program, from words to weights."""
    words = ("learner.mode=sync", "total_steps=480", f"actors.cuda_graphs={graphs}")
    plain = run(toy(*words), tmp_path / "plain")
    assert plain["cuda_graphs_share"] == 0.0
    monkeypatch.setitem(GRAPHS, "cpu", Tape)
    taped = run(toy(*words), tmp_path / "taped")
    assert taped["cuda_graphs_share"] == {"auto": 1.0, "never": 0.0}[graphs]
    for name in ("agent_steps", "updates", "policy_loss", "value_loss", "entropy", "gradient_norm"):
        assert taped[name] == pytest.approx(plain[name], rel=1e-3), name


@pytest.mark.seconds
@pytest.mark.parametrize("autocast", ["float32", "bfloat16", "auto"])
def test_a_run_records_which_arithmetic_its_encoder_had(tmp_path: Path, autocast: str):
    row = run(toy("total_steps=96", f"actors.autocast={autocast}"), tmp_path)
    here = float(carries_bfloat16_well(torch.device("cpu")))
    assert row["bfloat16_share"] == {"float32": 0.0, "bfloat16": 1.0, "auto": here}[autocast]
    assert json.loads((tmp_path / "summary.json").read_text())["bfloat16_share"] == row["bfloat16_share"]


@pytest.mark.seconds
def test_an_environment_that_dies_costs_its_unroll_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    built: list[CountingEnv] = []

    def make(config: object, num_envs: int, seed: int, count: int) -> list[CountingEnv]:
        built.append(CountingEnv(num_envs, seed, fail_at=7 if len(built) == 1 else None))
        return built[-1:]

    monkeypatch.setattr(actors.opening, "make_parts", make)
    monkeypatch.setattr("r2ac.training.build.make_env", lambda config, num_envs, seed: CountingEnv(num_envs, seed))
    row = run(toy("total_steps=480", "learner.batch_segments=32"), tmp_path)
    assert row["actor_restarts"] == 1
    assert row["updates"] == (row["contributions_accepted"] or 0) // 8
    assert row["agent_steps"] == 12 * (row["contributions_accepted"] or 0)
    assert len(built) == 3
    assert built[1]._randoms[0].bit_generator.state != built[2]._randoms[0].bit_generator.state


@pytest.mark.seconds
@pytest.mark.parametrize("mode", ["async", "sync", "lockstep"])
def test_an_unroll_whose_weights_were_lost_is_asked_for_again_with_others(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, renewed = [], []
    real_unroll, real_renew = LocalFleet._unroll, LocalLearner.renew_weights

    def unroll(fleet: LocalFleet, actor_id: int, weights: WeightsSnapshot) -> GradientContribution | None:
        asked.append(actor_id)
        return None if len(asked) in (2, 7, 8) else real_unroll(fleet, actor_id, weights)

    def renew(learner: LocalLearner) -> None:
        renewed.append(len(asked))
        real_renew(learner)

    monkeypatch.setattr(LocalFleet, "_unroll", unroll)
    monkeypatch.setattr(LocalLearner, "renew_weights", renew)
    row = run(toy(f"learner.mode={mode}", "total_steps=480"), tmp_path)
    assert renewed == [2, 7, 8]
    assert row["agent_steps"] == 12 * (row["contributions_accepted"] or 0) >= 240
    assert row["actor_restarts"] == row["contributions_dropped"] == 0
    assert abs(asked.count(0) - asked.count(1)) <= 3


def test_too_many_restarts_end_the_run_with_the_first_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        actors.opening, "make_parts", lambda config, num_envs, seed, count: [CountingEnv(num_envs, seed, fail_at=1)]
    )
    monkeypatch.setattr("r2ac.training.build.make_env", lambda config, num_envs, seed: CountingEnv(num_envs, seed))
    with pytest.raises(FleetError, match=r"gave up after 3 actor restarts.*told to fail"):
        run(toy("fleet.max_restarts=3"), tmp_path)


@pytest.mark.seconds
def test_a_gradient_that_is_not_finite_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    monkeypatch.setattr(actors.games, "clip_rewards", lambda rewards, how: torch.full_like(rewards, float("nan")))
    row = train(toy("total_steps=480"), tmp_path, Sinks([], events.append), StopAfter(6))
    assert row["contributions_refused"]
    assert (row["updates"], row["agent_steps"]) == (0, 0)
    assert any("is not finite in" in event for event in events)


@pytest.mark.seconds
def test_resume_says_what_is_wrong(tmp_path: Path):
    run(toy("total_steps=96"), tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"resume=never, but .* already has checkpoints"):
        run(toy("resume=never"), tmp_path / "a")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        run(toy(f"resume={tmp_path}/nowhere"), tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"is of another network \([\d,]+ parameters"):
        run(toy("network.num_units=9"), tmp_path / "a")


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("rule=tbptt", "holds a run with rule.name=segment, but this one has tbptt"),
        ("seed=2", "holds a run with seed=1, but this one has 2"),
        ("env=copy_task", "holds a run with env.suite=tmaze, but this one has copy_task"),
    ],
)
def test_another_run_does_not_go_on_in_a_used_folder(tmp_path: Path, word: str, message: str):
    run(toy("total_steps=96"), tmp_path / "a")
    words = [other for other in TOY if word != "env=copy_task" or not other.startswith("env.")]
    with pytest.raises(CheckpointError, match=message):
        run(load_train([*words, word, "total_steps=192"]), tmp_path / "a")
    run(toy("total_steps=192", "actors.unroll=6", "learner.learning_rate=0.001"), tmp_path / "a")


@pytest.mark.seconds
def test_a_run_can_start_from_another_runs_checkpoint(tmp_path: Path):
    run(toy("total_steps=96"), tmp_path / "a")
    run(toy("total_steps=192", f"resume={tmp_path}/a"), tmp_path / "b")
    started = checkpoints.load(checkpoints.find(tmp_path / "a")).agent_steps
    assert started < 192 <= checkpoints.load(checkpoints.find(tmp_path / "b")).agent_steps


@pytest.mark.seconds
def test_a_tbptt_trained_encoder_loads_frozen_into_an_rtrl_run_and_does_not_move(tmp_path: Path):
    run(toy("rule=tbptt", "total_steps=480", "learner.learning_rate=0.01"), tmp_path / "pretraining")
    first, *_, last = checkpoints.available(tmp_path / "pretraining")
    early, pretrained = checkpoints.load(first), checkpoints.load(last)
    early.score = 1e9
    checkpoints.save(tmp_path / "pretraining", early, keep=9)
    run(
        toy("total_steps=480", f"network.load_encoder={tmp_path}/pretraining", "network.freeze_encoder=true"),
        tmp_path / "main",
    )
    first, last = (
        checkpoints.load(path)
        for path in (checkpoints.available(tmp_path / "main")[0], checkpoints.find(tmp_path / "main"))
    )
    for slot in last.layout.slots:
        moved = not torch.equal(slot.view(last.vector), slot.view(first.vector))
        assert moved is not slot.name.startswith("encoder."), slot.name
        if slot.name.startswith("encoder."):
            assert torch.equal(slot.view(last.vector), slot.view(pretrained.vector))
    with pytest.raises(CheckpointError, match="encoder is another one"):
        run(toy(f"network.load_encoder={tmp_path}/pretraining", "network.features=7"), tmp_path / "other")


@pytest.mark.seconds
@pytest.mark.parametrize("algorithm", [(), IMPALA, R2D2], ids=["r2ac", "impala", "r2d2"])
def test_the_size_of_what_the_core_reads_is_in_the_rows_of_those_that_learn_from_unrolls(
    tmp_path: Path, algorithm: tuple[str, ...]
):
    row = run(toy(*algorithm, "total_steps=240", "network.last_reward=false"), tmp_path)
    rms = row["core_inputs_rms"]
    if algorithm == R2D2:
        assert rms is None
    else:
        assert rms is not None
        assert 0.01 < rms < 1, "of features that tanh has bounded"


@pytest.mark.seconds
@pytest.mark.parametrize("core", ["indrnn", "mingru", "feedforward"])
@pytest.mark.parametrize("rule", ["segment", "reference", "tbptt"])
def test_every_core_trains_under_every_rule(tmp_path: Path, core: str, rule: str):
    row = run(toy(f"network.core={core}", f"rule={rule}", "total_steps=96"), tmp_path)
    assert row["updates"]
    assert (row["sensitivity_norm"] == 0) is (rule == "tbptt" or core == "feedforward")


@pytest.mark.seconds
@pytest.mark.parametrize("fate", ["refused", "lost"])
@pytest.mark.parametrize("mode", ["sync", "lockstep"])
def test_a_contribution_that_is_not_added_leaves_every_update_of_a_single_version(
    mode: str, fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also the batches after it: what one round lacks is not taken from the next."""
    sent: list[GradientContribution] = []
    batches: list[set[int]] = []
    real_send, real_update = LocalLearner.send, Learner._update_with_sum

    def send(learner: LocalLearner, contribution: GradientContribution) -> None:
        sent.append(contribution)
        if len(sent) % 7 == 3:
            if fate == "lost":
                return
            contribution.gradient.fill_(float("nan"))
        real_send(learner, contribution)

    def add(learner: Learner, contribution: GradientContribution) -> Receipt:
        receipt = real_add(learner, contribution)
        if receipt.verdict is Verdict.ACCEPTED:
            open_batch.add(contribution.header.policy_version)
        return receipt

    def update(learner: Learner) -> Update:
        batches.append(set(open_batch))
        open_batch.clear()
        return real_update(learner)

    open_batch: set[int] = set()
    real_add = Learner.add
    monkeypatch.setattr(LocalLearner, "send", send)
    monkeypatch.setattr(Learner, "add", add)
    monkeypatch.setattr(Learner, "_update_with_sum", update)
    row = run(toy(f"learner.mode={mode}", "total_steps=480"), tmp_path)
    assert len(sent) > 40
    lag = 0 if mode == "sync" else 1
    assert batches == [{max(0, version - lag)} for version in range(len(batches))]
    assert row["updates"] == len(batches) == len(sent) // 2
    assert row["policy_lag_max"] == lag
