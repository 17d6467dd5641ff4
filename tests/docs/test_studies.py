"""The page of results shows what the files of results hold, and whoever repeats them runs what is named there."""

import shutil
from itertools import product
from pathlib import Path

import pytest

from benchmarks import algorithms, defaults, elsewhere, fleets, r2d2, recurrences
from benchmarks.chaos.page import COMMAND, DATA, read_reports, table
from benchmarks.learning import RESULTS, Agent, Curve, Store, Study, Task
from benchmarks.report import replace_table
from benchmarks.simulation import page as simulation
from conf.load import load_train
from r2ac.training.parts import require_all_parts

STUDIES = (recurrences.STUDY, algorithms.STUDY, r2d2.STUDY, defaults.STUDY, elsewhere.STUDY, fleets.STUDY)
TABLES = {
    "recurrences": recurrences.table,
    "algorithms": algorithms.table,
    "r2d2": r2d2.table,
    "defaults": defaults.table,
    "elsewhere": elsewhere.table,
    "fleets": fleets.table,
}
every_study = pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)


@every_study
def test_the_page_shows_the_file(study: Study, tmp_path: Path) -> None:
    page = RESULTS / "README.md"
    written = Path(shutil.copy(page, tmp_path))
    replace_table(written, f"python -m benchmarks.{study.name} table", TABLES[study.name](Store(study.data)))
    assert written.read_text() == page.read_text()


def test_the_page_shows_the_campaigns_of_faults(tmp_path: Path) -> None:
    page = RESULTS / "README.md"
    written = Path(shutil.copy(page, tmp_path))
    reports = read_reports(RESULTS / "data" / DATA)
    replace_table(written, COMMAND, table(reports))
    assert written.read_text() == page.read_text()
    assert reports
    broken = [said for report in reports for said in report.wrong]
    assert all(
        said.startswith("with a fault a minute the run made 0.9") for said in broken
    )  # a target, and the page says so


def test_the_page_shows_the_simulated_fleets(tmp_path: Path) -> None:
    page = RESULTS / "README.md"
    written = Path(shutil.copy(page, tmp_path))
    figures, _ = simulation.read(RESULTS / "data" / simulation.DATA)
    replace_table(written, simulation.COMMAND, simulation.lines(RESULTS / "data" / simulation.DATA))
    assert written.read_text() == page.read_text()
    assert {(one.actors, one.added_up) for one in figures} == set(product((100, 300, 1000), (False, True)))
    assert not any(one.twice for one in figures)
    (largest,) = (one for one in figures if one.added_up and one.actors == 1000)
    assert largest.messages <= 50
    assert largest.cores["driver"] < 0.5
    assert all(one.growth < 10 for one in figures if one.added_up), "MB per minute: references inside of lists were 44"


@every_study
def test_every_agent_has_run_on_every_task_with_every_seed(study: Study) -> None:
    store = Store(study.data)
    for task, agent in study.chosen(""):
        curves = store.of(task, agent)
        assert [curve.seed for curve in curves] == list(study.seeds_of(task, agent)), (task, agent)
        for curve in curves:
            if task.minutes is None:
                assert 0.9 * task.steps <= curve.steps[-1] <= 1.1 * task.steps
            else:
                of_several_lengths = study is fleets.STUDY  # and some were killed before their last row
                short, long = (0.7, 1.15) if of_several_lengths else (0.9, 1.1)
                assert short * task.minutes <= curve.seconds / 60 <= long * task.minutes


@every_study
def test_the_words_of_every_agent_and_task_are_understood(study: Study) -> None:
    for agent in study.agents:
        require_all_parts(load_train([*study.fleet, *study.tasks[0].words, *agent.words]))
    for task in study.tasks[1:]:
        require_all_parts(load_train([*study.fleet, *task.words]))


def test_a_curve_has_learned_where_it_first_reaches_95_percent_and_ends_with_its_last_tenth() -> None:
    curve = Curve("t", "a", 1, [10, 20, 30], [0.5, 0.96, 0.9], 1.0)
    assert (curve.learned_at, curve.final) == (20, 0.9)
    assert Curve("t", "a", 1, [10], [0.5], 1.0).learned_at is None


def test_runs_are_added_to_the_file_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    Store(path).add(Curve("t", "b", 1, [10], [0.5], 1.0))
    again = Store(path)
    again.speed = {"b": {"t": 7.0}}
    again.add(Curve("t", "a", 2, [10], [0.25], 2.0, [1.5]))
    read = Store(path)
    assert [(curve.agent, curve.mean_return, curve.wall) for curve in read.curves] == [
        ("a", [0.25], [1.5]),
        ("b", [0.5], []),
    ]
    assert read.speed == {"b": {"t": 7.0}}


def small(task: Task, *words: str) -> Study:
    fleet = ("fleet=local", "fleet.num_actors=1", "actors.num_envs=4", "network.num_units=8")
    return Study("small", (task,), (Agent("agent", words),), (1,), fleet, lambda store: None, "usage")


def test_a_run_that_fails_is_one_line_and_adds_nothing(tmp_path: Path) -> None:
    study, store = small(recurrences.TASKS[0], "network.core=nonsense"), Store(tmp_path / "file.json")
    with pytest.raises(RuntimeError, match=r"unknown network\.core 'nonsense'"):
        study.run(store, tmp_path / "runs", 1, "T-maze 100")
    assert store.curves == []


@pytest.mark.soak
def test_a_run_ends_after_its_minutes_and_leaves_what_it_did(tmp_path: Path) -> None:
    task = Task("maze", 1_000_000_000, ("experiment=tmaze", "env.corridor=3"), minutes=0.25, row_steps=1000)
    study, store = small(task), Store(tmp_path / "file.json")
    study.run(store, tmp_path / "runs", 1, "")
    (curve,) = store.curves
    assert 0 < curve.steps[-1] < task.steps
    assert len(curve.wall) == len(curve.steps) == len(curve.mean_return)
    assert curve.wall == sorted(curve.wall)


def test_returns_after_a_limit_are_those_of_the_last_row_before_it() -> None:
    curve = Curve("t", "a", 1, [10, 20, 30], [0.1, 0.2, 0.3], 3.0, [1.0, 2.0, 3.0])
    assert algorithms.then(curve, curve.wall, 2.5) == 0.2
    assert algorithms.then(curve, curve.wall, 0.5) == 0.1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly"], "what each recurrence"),
        (["run", "jobs=0"], "jobs=0: expected a number from 1 on"),
        (["run", "only=nobody"], "only=nobody: no agent on any task is called so"),
    ],
)
def test_what_it_is_not_told_rightly_it_says(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert recurrences.STUDY.main(words) == 2
    assert said.lower() in capsys.readouterr().err.lower()


def test_a_page_without_a_place_for_the_table_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    with pytest.raises(ValueError, match="has no place for a table"):
        replace_table(page, "python -m benchmarks.recurrences table", ["| a |"])
    assert page.read_text() == "# Title\n"
