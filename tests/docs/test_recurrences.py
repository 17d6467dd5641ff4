"""The page of results shows what the file of results holds, and whoever repeats it runs what is named there."""

import shutil
from pathlib import Path

import pytest

from benchmarks import recurrences
from benchmarks.report import replace_table
from conf.load import load_train


def test_the_page_shows_the_file(tmp_path: Path) -> None:
    page = recurrences.RESULTS / "README.md"
    written = Path(shutil.copy(page, tmp_path))
    replace_table(written, "python -m benchmarks.recurrences table", recurrences.table(recurrences.Store()))
    assert written.read_text() == page.read_text()


def test_every_agent_has_run_on_every_task_with_every_seed() -> None:
    store = recurrences.Store()
    for task, agent in recurrences.chosen(""):
        assert [curve.seed for curve in store.of(task, agent)] == list(recurrences.SEEDS), (task, agent)
        assert all(0.9 * task.steps <= curve.steps[-1] <= 1.1 * task.steps for curve in store.of(task, agent))


def test_the_words_of_every_agent_and_task_are_understood() -> None:
    for agent in recurrences.AGENTS:
        load_train([*recurrences.TASKS[0].words, *agent.words])
    for task in recurrences.TASKS[1:]:
        load_train(task.words)


def test_a_curve_has_learned_where_it_first_reaches_95_percent_and_ends_with_its_last_tenth() -> None:
    curve = recurrences.Curve("t", "a", 1, [10, 20, 30], [0.5, 0.96, 0.9], 1.0)
    assert (curve.learned_at, curve.final) == (20, 0.9)
    assert recurrences.Curve("t", "a", 1, [10], [0.5], 1.0).learned_at is None


def test_runs_are_added_to_the_file_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    recurrences.Store(path).add(recurrences.Curve("t", "b", 1, [10], [0.5], 1.0))
    again = recurrences.Store(path)
    again.speed = {"b": {"t": 7.0}}
    again.add(recurrences.Curve("t", "a", 2, [10], [0.25], 2.0))
    read = recurrences.Store(path)
    assert [(curve.agent, curve.success) for curve in read.curves] == [("a", [0.25]), ("b", [0.5])]
    assert read.speed == {"b": {"t": 7.0}}


def test_a_run_that_fails_is_one_line_and_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = recurrences.Agent("wrong", ("network.core=nonsense",))
    monkeypatch.setattr(recurrences, "AGENTS", (wrong,))
    store = recurrences.Store(tmp_path / "file.json")
    with pytest.raises(RuntimeError, match=r"unknown network\.core 'nonsense'"):
        recurrences.run(store, tmp_path / "runs", 1, "T-maze 100")
    assert store.curves == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly"], "what each recurrence"),
        (["run", "jobs=0"], "jobs=0: expected a number from 1 on"),
        (["run", "only=nobody"], "only=nobody: no agent on any task is called so"),
    ],
)
def test_what_it_is_not_told_rightly_it_says(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert recurrences.main(words) == 2
    assert said.lower() in capsys.readouterr().err.lower()


def test_a_page_without_a_place_for_the_table_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n")
    with pytest.raises(ValueError, match="has no place for a table"):
        replace_table(page, "python -m benchmarks.recurrences table", ["| a |"])
    assert page.read_text() == "# Title\n"
