"""A run that is started again goes on, and so do its logs; what it cannot take over is said, and a finished one is left alone."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.load import load_train
from conf.schema import TrainConfig
from learner.receipts import Counters
from r2ac.commands import train as training_program
from r2ac.commands.stop_signals import ENDING
from r2ac.monitoring.sinks import Sinks, open_sinks
from r2ac.monitoring.tally import Tally
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence import manifest as manifests
from r2ac.persistence.checkpoint import CheckpointError, DamagedCheckpoint
from r2ac.persistence.manifest import MANIFEST
from r2ac.persistence.resume import finished, newest_learner
from r2ac.training.loop import RunHooks, train

TOY = [
    *("experiment=tmaze", "env.corridor=4", "fleet=local", "fleet.num_actors=2", "actors.num_envs=4"),
    *("actors.unroll=3", "network.num_units=8", "network.encoder=mlp", "network.features=6", "logging=quiet"),
    *("logging.interval_steps=24", "logging.checkpoint_interval_steps=96"),
]


def toy(*words: str) -> TrainConfig:
    return load_train([*TOY, *words])


class Killed(Exception):
    pass


class KilledBeyondACheckpoint(RunHooks):
    """Ends the run as a kill does, without a last checkpoint, once it has logged beyond the second one."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def should_stop(self) -> bool:
        present = checkpoints.available(self._run_dir)
        if len(present) >= 2 and rows(self._run_dir)[-1]["agent_steps"] > int(present[-1].name):
            raise Killed
        return False


def run(config: TrainConfig, run_dir: Path, hooks: RunHooks | None = None) -> tuple[dict[str, Any], list[str]]:
    """The last row, and what was said."""
    run_dir.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    with open_sinks(config, run_dir, {}) as sinks:
        sinks.event = said.append
        try:
            row = train(config, run_dir, sinks, hooks or RunHooks())
        except Killed:
            row = {}
    return row, said


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.seconds
@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize("place", ["{}", "file://{}"])
def test_a_finished_run_is_left_as_it_is(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    location = place.format(tmp_path / "run")
    words = (f"run_dir={location}", "logging.terminal=plain", "logging.keep_checkpoints=1")
    assert training_program.run(toy("total_steps=192", *words)) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert training_program.run(toy("total_steps=192", *words)) == 0
    assert re.search("is finished: it has [0-9]+ agent steps of total_steps=192; nothing was", capsys.readouterr().out)
    attempts = {name for name in tree(tmp_path) if "attempts" in name}
    assert {name: content for name, content in tree(tmp_path).items() if name not in attempts} == {
        name: content for name, content in before.items() if name not in attempts
    }
    if "://" not in location:
        assert tree(tmp_path) == before
    assert training_program.run(toy("total_steps=288", *words)) == 0
    assert checkpoints.load(checkpoints.find(tmp_path / "run")).agent_steps >= 288


@pytest.mark.seconds
def test_a_finished_run_that_is_another_one_is_refused_all_the_same(tmp_path: Path):
    run(toy("total_steps=96"), tmp_path)
    with pytest.raises(CheckpointError, match="holds a run with seed=1, but this one has 2"):
        training_program.run(toy("total_steps=96", "seed=2", f"run_dir={tmp_path}"))
    with pytest.raises(CheckpointError, match="resume=never"):
        run(toy("total_steps=96", "resume=never"), tmp_path)


@pytest.mark.seconds
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_rows_beyond_the_checkpoint_of_a_killed_run_are_logged_once(tmp_path: Path, mode: str):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = (f"learner.mode={mode}", "logging.tensorboard=true", "logging.interval_steps=12")
    run(toy("total_steps=960", *words), tmp_path, KilledBeyondACheckpoint(tmp_path))
    saved = checkpoints.load(checkpoints.find(tmp_path)).agent_steps
    beyond = [row["agent_steps"] for row in rows(tmp_path)][-1]
    assert 0 < saved < beyond
    run(toy("total_steps=960", *words), tmp_path)
    steps = [row["agent_steps"] for row in rows(tmp_path)]
    assert steps == sorted(set(steps))
    assert saved < beyond < steps[-1]
    for name in ("episodes", "updates", "wall_time_s", "contributions_accepted"):
        values = [row[name] for row in rows(tmp_path)]
        assert values == sorted(values), name
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("learning/frames")] == steps


@pytest.mark.seconds
def test_rows_of_a_run_that_begins_again_from_nothing_do_not_stay_before_its_own(tmp_path: Path):
    run(toy("total_steps=96"), tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        path.rename(tmp_path / f"moved_{path.name}")
    run(toy("total_steps=96"), tmp_path)
    steps = [row["agent_steps"] for row in rows(tmp_path)]
    assert steps == sorted(set(steps))


@pytest.mark.seconds
def test_another_optimizer_is_refused_in_the_same_run_and_begins_anew_in_another(tmp_path: Path):
    run(toy("total_steps=96", "learner.optimizer=adam"), tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"holds a run with learner.optimizer=adam, but this one has rmsprop"):
        run(toy("total_steps=192", "learner.optimizer=rmsprop"), tmp_path / "a")
    row, said = run(toy("total_steps=192", "learner.optimizer=rmsprop", f"resume={tmp_path}/a"), tmp_path / "b")
    assert row["agent_steps"] >= 192
    assert f"resume={tmp_path}/a was trained with another learner.optimizer: its moments begin anew" in said


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("actors.num_envs=2", "actors.num_envs changed since the checkpoint: actors begin new games"),
        ("env.corridor=6", "env changed since the checkpoint: actors begin new games"),
        ("actors.wire=bfloat16", None),
        ("actors.unroll=5", None),
        ("fleet.num_actors=1", None),
        ("fleet.num_actors=3", None),
        ("learner.mode=sync", None),
        ("learner.batch_segments=4", None),
        ("logging.tensorboard=true", None),
    ],
)
def test_a_run_goes_on_under_changed_settings(tmp_path: Path, word: str, line: str | None):
    run(toy("total_steps=96"), tmp_path)
    row, said = run(toy("total_steps=192", word), tmp_path)
    assert row["agent_steps"] >= 192
    assert row["contributions_dropped"] == row["contributions_refused"] == row["actor_restarts"] == 0
    assert [text for text in said if "changed" in text] == ([] if line is None else [line])


@pytest.mark.seconds
def test_an_actor_that_comes_back_after_a_smaller_fleet_is_not_taken_for_its_own_past(tmp_path: Path):
    run(toy("total_steps=192"), tmp_path)
    run(toy("total_steps=288", "fleet.num_actors=1"), tmp_path)
    row, _ = run(toy("total_steps=480"), tmp_path)
    assert row["contributions_dropped"] == 0
    assert row["actor_steps_per_second/1"] > 0


@pytest.mark.seconds
def test_a_job_that_is_queued_again_with_a_path_to_resume_from_goes_on_from_its_own_checkpoints(tmp_path: Path):
    run(toy("total_steps=96"), tmp_path / "a")
    words = (f"resume={tmp_path}/a", "learner.learning_rate=0.01")
    run(toy("total_steps=192", *words), tmp_path / "b")
    kept = checkpoints.load(checkpoints.find(tmp_path / "b"))
    row, said = run(toy("total_steps=288", *words), tmp_path / "b")
    assert row["agent_steps"] >= 288
    assert f"going on at {kept.agent_steps:,} agent steps" in said
    assert any("has checkpoints of its own" in line for line in said)


@pytest.mark.seconds
def test_an_older_checkpoint_of_the_same_folder_is_refused(tmp_path: Path):
    run(toy("total_steps=192"), tmp_path)
    oldest, newest = checkpoints.available(tmp_path)[0], checkpoints.available(tmp_path)[-1]
    with pytest.raises(CheckpointError, match=r"is older than .* of the same run: choose a new run_dir"):
        run(toy("total_steps=288", f"resume={oldest}"), tmp_path)
    row, _ = run(toy("total_steps=288", f"resume={newest}"), tmp_path)
    assert row["agent_steps"] >= 288


@pytest.mark.seconds
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("name", ["learner.safetensors", MANIFEST])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_an_older_one(tmp_path: Path, name: str, by_name: bool):
    run(toy("total_steps=192"), tmp_path)
    older, newest = checkpoints.available(tmp_path)[-2:]
    (newest / name).write_bytes(b"")
    words = [f"resume={older}"] if by_name else []
    row, said = run(toy("total_steps=288", *words), tmp_path)
    assert row["agent_steps"] >= 288
    assert f"{newest} is damaged, and was renamed; the one before is used" in said
    assert f"going on at {int(older.name):,} agent steps" in said
    assert int(checkpoints.find(tmp_path).name) == row["agent_steps"]
    steps = [row["agent_steps"] for row in rows(tmp_path)]
    assert steps == sorted(set(steps)), "rows that the damaged one had seen are logged twice"


@pytest.mark.seconds
def test_a_finished_run_whose_last_checkpoint_is_damaged_is_not_finished(tmp_path: Path):
    run(toy("total_steps=192"), tmp_path)
    newest = checkpoints.find(tmp_path)
    (newest / "learner.safetensors").write_bytes(b"")
    assert finished(toy("total_steps=192"), tmp_path) is None
    row, said = run(toy("total_steps=192"), tmp_path)
    assert row["agent_steps"] >= 192
    assert any("is damaged" in line for line in said)


@pytest.mark.seconds
def test_where_no_checkpoint_is_whole_or_one_cannot_be_used_for_another_reason_nothing_is_set_aside(tmp_path: Path):
    run(toy("total_steps=192"), tmp_path)
    older, newest = checkpoints.available(tmp_path)[-2:]
    whole = (older / MANIFEST).read_text()
    for path in checkpoints.available(tmp_path):
        (path / "learner.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"{newest.name} is damaged"):
        run(toy("total_steps=288"), tmp_path)
    (older / MANIFEST).write_text(whole.replace('"format": 1', '"format": 99'))
    with pytest.raises(CheckpointError, match=rf"{older.name} has format 99"):
        run(toy("total_steps=288"), tmp_path)
    assert newest in checkpoints.available(tmp_path)


@pytest.mark.seconds
def test_a_learner_that_starts_again_passes_over_what_is_damaged_also_where_nothing_can_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(config := toy("total_steps=192"), tmp_path)
    older, newest = checkpoints.available(tmp_path)[-2:]
    saved, said = checkpoints.load(older), list[str]()
    (newest / "learner.safetensors").write_bytes(b"")

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        state = newest_learner(config, tmp_path, saved.layout, said.append)
    assert state["counters"] == saved.learner["counters"]
    assert (
        said.pop()
        == f"{newest} is damaged, and could not be renamed ([Errno 30] Read-only file system); the one before is used"
    )
    assert newest_learner(config, tmp_path, saved.layout, said.append)["counters"] == saved.learner["counters"]
    assert said == [f"{newest} is damaged, and was renamed; the one before is used"]
    assert newest not in checkpoints.available(tmp_path)


@pytest.mark.seconds
def test_a_disk_that_cannot_be_read_now_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(toy("total_steps=192"), tmp_path)
    newest = checkpoints.find(tmp_path)

    def refuse(*_: object) -> str:
        raise OSError(5, "Input/output error")

    for module, name in (
        *((manifests.Path, "exists"), (manifests.Path, "read_text")),
        *((manifests.Path, "is_symlink"), (checkpoints, "_checksum")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with pytest.raises(CheckpointError, match=r"cannot be read: .*Input/output error") as failure:
                checkpoints.load(newest)
            assert not isinstance(failure.value, DamagedCheckpoint)


@pytest.mark.seconds
def test_a_run_from_another_runs_weights_has_logs_and_returns_of_its_own(tmp_path: Path):
    run(toy("total_steps=480"), tmp_path / "a")
    theirs = checkpoints.load(checkpoints.find(tmp_path / "a"))
    words = [word for word in TOY if word != "env.corridor=4"]
    run(load_train([*words, "env.corridor=5", "total_steps=504", f"resume={tmp_path}/a"]), tmp_path / "same")
    ours = checkpoints.load(checkpoints.find(tmp_path / "same"))
    assert ours.progress["sinks"]["WandbSink"]["run_id"] != theirs.progress["sinks"]["WandbSink"]["run_id"]
    assert ours.progress["tally"]["episodes"] >= theirs.progress["tally"]["episodes"] > 0
    again = checkpoints.load(checkpoints.find(tmp_path / "a"))
    assert again.progress == theirs.progress


def test_the_identity_of_its_logs_survives_a_start_without_them(tmp_path: Path):
    """Also in checkpoints of versions that had none to remember."""
    said: list[str] = []
    first = Sinks([], said.append)
    again = Sinks([], said.append)
    again.begin(10, 0.0, first.get_state())
    assert again.get_state() == first.get_state()
    for state in ({}, {"WandbSink": {"run_id": None}}):
        other = Sinks([], said.append)
        other.begin(10, 0.0, state)
        assert len(other.get_state()["WandbSink"]["run_id"]) == 8


def test_levels_are_known_by_their_names_when_their_number_changes():
    before = Tally(("maze", "arena"), 100)
    before._level_steps[:] = [3, 5]
    before._recent_by_level[1].append(7.0)
    after = Tally(("arena", "field", "maze"), 100)
    after.set_state(before.get_state(), Counters(agent_steps=8))
    assert after._level_steps.tolist() == [5, 0, 3]
    assert {level: list(returns) for level, returns in after._recent_by_level.items() if returns} == {0: [7.0]}
    of_earlier_version = {name: value for name, value in before.get_state().items() if name != "levels"}
    same = Tally(("maze", "arena"), 100)
    same.set_state(of_earlier_version, Counters())
    assert same._level_steps.tolist() == [3, 5]


@pytest.mark.seconds
def test_a_resumed_run_with_another_batch_equals_itself(tmp_path: Path):
    for name in ("a", "b"):
        run(toy("total_steps=96", "learner.mode=sync"), tmp_path / name)
        run(toy("total_steps=192", "learner.mode=sync", "actors.unroll=5"), tmp_path / name)
    first, second = (checkpoints.load(checkpoints.find(tmp_path / name)).vector for name in ("a", "b"))
    assert torch.equal(first, second)
