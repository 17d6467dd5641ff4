"""Successive halving: who goes on, for how long, and what the same command does after it was stopped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conf.knobs import ConfigError
from r2ac.commands.sweep import main
from r2ac.jobs.job import Job
from r2ac.sweeps.halving import RECORD, Contender, Halving
from r2ac.sweeps.local import LocalJob

RATES = ("1e-4", "3e-4", "1e-3", "3e-3", "1e-2")


class Trainer:
    """Trains for nothing: a run's score is what is said of its combination and seed, times its minutes."""

    def __init__(self, worth: dict[str, float | None], stops_at: float | None = None) -> None:
        self.worth, self.stops_at = worth, stops_at
        self.trained: list[tuple[float, list[str]]] = []

    def __call__(self, jobs: Sequence[LocalJob], minutes: float) -> bool:
        if minutes == self.stops_at:
            return False
        self.trained.append((minutes, [job.label for job in jobs]))
        for job in jobs:
            rate, seed = job.label.split(",")
            worth = self.worth[rate]
            job.folder.mkdir(parents=True, exist_ok=True)
            value = None if worth is None else (worth + 0.1 * int(seed)) * minutes
            summary = {"mean_return_100": value, "entropy": 1.0, "wall_time_s": 60 * minutes}
            (job.folder / "summary.json").write_text(json.dumps(summary))
        return True


def contenders(folder: Path, rates: Sequence[str] = RATES) -> list[Contender]:
    def job(rate: str, seed: int) -> LocalJob:
        label = f"{rate},{seed}"
        return LocalJob(Job(label, str(folder / label), ()), label, 1000, folder / label)

    return [Contender(rate, (f"learner.learning_rate={rate}",), (job(rate, 1), job(rate, 2))) for rate in rates]


def halving(folder: Path, trainer: Trainer, said: list[str] | None = None, **changes: Any) -> Halving:
    options: dict[str, Any] = {"minutes": 2.0, "keep": 0.5, "metric": "mean_return_100"}
    rates = changes.pop("rates", RATES)
    say = (said if said is not None else []).append
    return Halving(contenders(folder, rates), folder, **(options | changes), train=trainer, say=say)


WORTH: dict[str, float | None] = {"1e-4": 1.0, "3e-4": 4.0, "1e-3": 5.0, "3e-3": 2.0, "1e-2": None}


def test_the_better_half_goes_on_for_twice_as_long_until_one_is_left(tmp_path: Path):
    trainer, said = Trainer(WORTH), []
    assert halving(tmp_path, trainer, said).run()
    assert [(minutes, sorted({label.split(",")[0] for label in labels})) for minutes, labels in trainer.trained] == [
        (2.0, sorted(RATES)),
        (4.0, ["1e-3", "3e-4"]),
    ]
    assert all(len(labels) % 2 == 0 for _, labels in trainer.trained), "both seeds"
    assert said[-1] == "best: learner.learning_rate=1e-3"
    assert "      none  1e-2  (ends here)" in said
    record = json.loads((tmp_path / RECORD).read_text())
    assert [rung["kept"] for rung in record["rungs"]] == [["1e-3", "3e-4"], ["1e-3"]]
    assert record["rungs"][0]["scores"]["1e-3"] == pytest.approx(2 * 5.15), "the mean over seeds"


def test_the_same_command_goes_on_after_what_was_decided_whatever_the_runs_say_now(tmp_path: Path):
    first = Trainer(WORTH, stops_at=4.0)
    assert not halving(tmp_path, first).run()
    other = Trainer({**WORTH, "3e-4": 9.0, "3e-3": 100.0})
    again = halving(tmp_path, other)
    assert again.run()
    assert [minutes for minutes, _ in other.trained] == [4.0]
    assert again.rungs[-1].kept == ["3e-4"], "and not 3e-3, which did not go on"
    finished = Trainer({})
    assert halving(tmp_path, finished).run()
    assert finished.trained == []


def test_of_many_a_tenth_can_go_on_for_ten_times_as_long(tmp_path: Path):
    trainer = Trainer(WORTH)
    halving(tmp_path, trainer, keep=0.1).run()
    assert [minutes for minutes, _ in trainer.trained] == [2.0]
    assert trainer.trained[0][1] == [f"{rate},{seed}" for rate in RATES for seed in (1, 2)]


def test_one_combination_is_trained_once_and_is_the_best(tmp_path: Path):
    trainer, said = Trainer(WORTH), []
    assert halving(tmp_path, trainer, said, rates=("1e-4",)).run()
    assert len(trainer.trained) == 1
    assert said[-1] == "best: learner.learning_rate=1e-4"


def test_where_no_run_has_a_score_nothing_is_decided_and_the_same_command_tries_again(tmp_path: Path):
    said: list[str] = []
    with pytest.raises(ConfigError, match="no combination has a mean_return_100 after 2 minutes"):
        halving(tmp_path, Trainer(dict.fromkeys(RATES)), said).run()
    assert said == []
    assert not (tmp_path / RECORD).exists()
    assert halving(tmp_path, Trainer(WORTH), said).run()
    assert said[-1] == "best: learner.learning_rate=1e-3"


@pytest.mark.parametrize("changes", [{"minutes": 3.0}, {"keep": 0.3}, {"metric": "entropy"}, {"rates": RATES[:4]}])
def test_another_comparison_in_the_same_folder_is_refused(tmp_path: Path, changes: dict[str, Any]):
    halving(tmp_path, Trainer(WORTH)).run()
    with pytest.raises(ConfigError, match="of another comparison"):
        halving(tmp_path, Trainer(WORTH), **changes)


@pytest.mark.parametrize("text", ["", "[]", '{"rungs": 3}', '{"minutes": 2.0, "keep": 0.5, "rungs": []}'])
def test_a_record_that_is_none_is_one_line(tmp_path: Path, text: str):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ConfigError, match="is not the record of a comparison"):
        halving(tmp_path, Trainer(WORTH))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["halving_minutes=0"], "halving_minutes must be at least 0.01, got 0"),
        (["halving_minutes=1", "target=slurm"], "which target=slurm does not: use target=local, or leave it out"),
        (["halving_minutes=1", "halving_metric=mean_return"], "did you mean mean_return_100"),
        (["halving_minutes=1", "halving_metric=level_return"], "unknown halving_metric 'level_return'"),
        (["halving_minutes=1", "halving_keep=1"], "halving_keep must be at most 0.99, got 1"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_one_line(tmp_path: Path, words: list[str], message: str, capsys):
    assert main(["sweep_name=a", f"run_root={tmp_path}", "experiment=tmaze", "seed=1,2", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "a").exists()


@pytest.mark.soak
def test_real_runs_are_stopped_after_their_minutes_and_the_better_ones_go_on(tmp_path: Path, capfd):
    words = [
        *("sweep_name=tiny", f"run_root={tmp_path}", "jobs=2", "experiment=tmaze", "env.corridor=3", "fleet=local"),
        *("fleet.num_actors=1", "actors.num_envs=4", "actors.unroll=4", "logging=quiet", "logging.interval_s=0.2"),
        *("learner.learning_rate=0,0.003", "halving_minutes=0.05", "total_steps=100_000_000"),
    ]
    assert main(words) == 0
    shown = capfd.readouterr().out
    assert "mean_return_100 after 0.05 minutes of training:" in shown
    assert shown.strip().splitlines()[-1].startswith("best: experiment=tmaze")
    (rung,) = json.loads((tmp_path / "tiny" / RECORD).read_text())["rungs"]
    assert len(rung["scores"]) == 2
    for job in json.loads((tmp_path / "tiny" / "sweep.json").read_text())["jobs"]:
        summary = json.loads((tmp_path / "tiny" / job["folder"] / "summary.json").read_text())
        assert 3 <= summary["wall_time_s"] <= 30
    assert main(words) == 0
    assert "started" not in capfd.readouterr().out
