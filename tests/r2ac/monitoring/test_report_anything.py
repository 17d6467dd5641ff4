"""A run folder may hold anything: its report is a page, or one line says what is wrong."""

import json
import math
import xml.etree.ElementTree
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from anything import JSON, cases
from hypothesis import given
from hypothesis import strategies as st

from conf.load import to_yaml
from conf.schema import TrainConfig
from r2ac.commands.report import main
from r2ac.monitoring.report.page import render
from r2ac.monitoring.report.plots import draw_all
from r2ac.monitoring.report.runs import RunError, group_runs, read_run
from r2ac.persistence.lease import Attempt, Lease

METRICS = [
    "agent_steps",
    "mean_return_100",
    "policy_lag_mean",
    "gradient_norm_core",
    "level_return/a",
    "env_share",
    "progress",
]
ROWS = st.dictionaries(st.sampled_from(METRICS) | st.text(max_size=5), st.integers(0, 10**6) | JSON, max_size=6)
CONFIG = to_yaml(TrainConfig())


def write(folder: Path, rows: list[Any], config: str = CONFIG, **summary: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(config)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def named(name: Any, **more: Any) -> str:
    return yaml.safe_dump(yaml.safe_load(CONFIG) | {"name": name} | more, allow_unicode=True)


@pytest.mark.parametrize(
    "name",
    [
        r"$\frac$",
        "$a_b$",
        "_hidden",
        "<script>alert(1)</script>",
        "\x1b[31mred\x1b[0m",
        "[red]x[/red]",
        "a\x00b",
        "%s {}",
        ["a"],
        None,
        3,
    ],
)
def test_a_run_of_any_name_is_drawn_and_shown_as_it_is_called(name: Any, tmp_path: Path):
    rows = [{"agent_steps": step, "mean_return_100": step} for step in (1, 2)]
    runs = [write(tmp_path / "a", rows, named(name)), write(tmp_path / "b", rows, named(name, seed=2))]
    output = tmp_path / "page.html"
    assert main([*map(str, runs), "--output", str(output)]) == 0
    page = output.read_text()
    assert "<script>" not in page
    assert "\x1b" not in page
    assert "\x00" not in page
    svg = page[page.index("<svg") : page.index("</svg>") + len("</svg>")]
    words = [element.text for element in xml.etree.ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    shown = str(name).replace("\x1b", "?").replace("\x00", "?")
    assert any(shown in (text or "") for text in words)


def test_texts_and_numbers_that_are_none_are_left_out_of_a_log(tmp_path: Path):
    rows = [{"agent_steps": 1, "mean_return_100": "text", "env_share": True, "progress": [1], "policy_lag_mean": 3.0}]
    (tmp_path / "a").mkdir()
    run = read_run(write(tmp_path / "a", [*rows, {"agent_steps": 2, "mean_return_100": math.nan, "entropy": math.inf}]))
    assert run.newest("mean_return_100") is None
    assert run.newest("entropy") is None
    assert run.newest("policy_lag_mean") == 3.0
    assert render(group_runs([run]), draw_all(group_runs([run]))).startswith("<!doctype html>")


@pytest.mark.parametrize("steps", ["text", None, math.nan, -1, 1e300, [1], True])
def test_a_row_without_a_number_of_steps_is_one_line(steps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write(tmp_path / "a", [{"agent_steps": steps}, {"agent_steps": 2}])
    assert main([str(folder), "--output", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert "line 1 is not a row with agent_steps" in error
    assert error.count("\n") == 1


@pytest.mark.seconds
@cases(100)
@given(rows=st.lists(ROWS | JSON, max_size=5), summary=JSON, options=JSON)
def test_any_log_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, summary: Any, options: Any
):
    folder = tmp_path_factory.getbasetemp() / "any_log"
    write(folder, rows, named(options, logging={"interval_s": options}), config_hash=summary, git_revision=summary)
    said = ""
    try:
        run = read_run(folder)
        assert run.state in ("finished", "running", "stopped")
        groups = group_runs([run, run])
        assert all("\n" not in group.label for group in groups)
        render(groups, [])
    except RunError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.seconds
@cases(6)
@given(rows=st.lists(ROWS, min_size=1, max_size=5))
def test_any_row_that_is_read_can_be_drawn(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]):
    folder = tmp_path_factory.getbasetemp() / "any_row"
    write(folder, [{**row, "agent_steps": number} for number, row in enumerate(rows)])
    groups = group_runs([read_run(folder)])
    render(groups, draw_all(groups))


class Files:
    """Storage that answers with one content."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def cat_file(self, path: str) -> bytes:
        del path
        return self.content


@pytest.mark.seconds
@cases(300)
@given(
    content=st.dictionaries(st.sampled_from([spec.name for spec in fields(Attempt)]), JSON).map(
        lambda v: json.dumps(v).encode()
    )
    | st.binary(max_size=40)
)
def test_any_file_of_an_attempt_is_one_or_none(content: bytes):
    lease = object.__new__(Lease)
    lease._files, lease._folder = Files(content), ""
    attempt = lease._read(1)
    assert attempt is None or (isinstance(attempt.pid, int) and attempt.pid > 0)
