"""rtrl-report: from run folders to a page that a browser shows without complaint."""

import base64
import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from patience import patience

from conf.load import load_train, to_yaml
from r2ac.commands.report import main
from r2ac.monitoring.metrics import check_row
from r2ac.monitoring.report.plots import PLOTS, band
from r2ac.monitoring.report.runs import RunError, differing_options, group_runs, read_run

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def make_run(folder: Path, seed: int = 1, rows: int = 30, words: tuple[str, ...] = (), finished: bool = True) -> Path:
    """A run folder as training leaves it, with the rows of a plausible run."""
    config = load_train(["experiment=atari_breakout", f"seed={seed}", *words])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    log = []
    for index in range(1, rows + 1):
        row: dict[str, float | int | None] = {
            "agent_steps": 1000 * index + seed,
            "progress": index / rows if finished else 0.5,
            "mean_return_100": 10 * np.tanh(index / 10) + seed,
            "episode_length_mean": None if index % 3 else 100.0 + index,
            "steps_per_second": 900.0 + 10 * seed,
            "policy_lag_mean": 0.5,
            "policy_lag_p95": 2.0,
            "gradient_norm_stem": 3.0,
            "gradient_norm_core": 0.0,
            "gradient_norm_heads": 30.0 / index,
            "contributions_refused": 0,
        }
        check_row(row)
        log.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(log) + "\n")
    return folder


class Page(HTMLParser):
    """What is on a page: its tags, its visible text, and everything it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.identifiers: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.identifiers += [values["id"]] if "id" in values else []
        links = [values.get(name, "") for name in ("src", "href", "xlink:href")]
        self.fetched += [link for link in links if link and not link.startswith(("#", "data:"))]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of RTRL and one run of truncated BPTT."""
    folder = tmp_path_factory.mktemp("report")
    runs = [
        make_run(folder / "a", seed=1),
        make_run(folder / "b", seed=2),
        make_run(folder / "c", seed=1, words=("rule=tbptt", "name=truncated")),
    ]
    output = folder / "out" / "page.html"
    assert main([*map(str, runs), "--output", str(output)]) == 0
    return output


@pytest.mark.seconds
def test_the_page_stands_alone(page_path: Path) -> None:
    page = Page(page_path.read_text())
    assert page.fetched == []
    assert "script" not in page.tags
    assert len(page.identifiers) == len(set(page.identifiers))
    assert page.tags.count("svg") == 5


@pytest.mark.seconds
def test_the_page_names_runs_seeds_and_differences(page_path: Path) -> None:
    words = Page(page_path.read_text()).words
    assert "atari_breakout (2 seeds)" in words
    for expected in ("rule.name", "segment", "tbptt", "1, 2", "finished", "lowest to the highest seed"):
        assert expected in words


@pytest.mark.seconds
def test_a_png_of_every_plot_lies_beside_the_page(page_path: Path) -> None:
    pictures = sorted(page_path.parent.glob("page-*.png"))
    assert {path.stem.removeprefix("page-") for path in pictures} <= {plot.slug for plot in PLOTS}
    assert len(pictures) == 5
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page was only parsed")
@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_it_without_complaint_at_a_phones_and_a_screens_width(
    page_path: Path, tmp_path: Path, width: int
) -> None:
    probe = """<script>addEventListener('load', () => {
        const plots = [...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().height > 100);
        parent.postMessage([document.documentElement.scrollWidth, innerWidth, plots.length].join(' '), '*')})</script>"""
    inner = base64.b64encode(page_path.read_text().replace("</body>", f"{probe}</body>").encode()).decode()
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<title>waiting</title><script>addEventListener('message', e => document.title = e.data)</script>
        <iframe style="width:{width}px; height:800px; border:0" src="data:text/html;base64,{inner}"></iframe>"""
    )
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", frame.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=patience(120), check=True)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    title = shown.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title != "waiting", "the page never finished loading"
    content_width, window_width, plots = map(int, title.split())
    assert content_width <= window_width <= width
    assert plots == 5


@pytest.mark.seconds
def test_a_run_that_is_still_writing_its_last_line_is_reported(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rows=4, finished=False)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"agent_steps": 5000, "entr')
    run = read_run(folder)
    assert len(run.rows) == 4
    assert run.state == "running"


@pytest.mark.seconds
def test_a_log_that_has_been_quiet_belongs_to_a_stopped_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", finished=False)
    os.utime(folder / "metrics.jsonl", (0, 0))
    assert read_run(folder).state == "stopped"


def test_rows_after_the_checkpoint_that_a_run_went_on_from_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rows=4)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"agent_steps": 2500, "entropy": 1.0}) + "\n")
    assert [row["agent_steps"] for row in read_run(folder).rows] == [1001, 2001, 2500]


@pytest.mark.seconds
def test_runs_are_grouped_by_name_and_configuration_apart_from_the_seed(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "a", seed=1)),
        read_run(make_run(tmp_path / "b", seed=2)),
        read_run(make_run(tmp_path / "c", seed=1, words=("loss.discount=0.9",))),
    ]
    groups = group_runs(runs)
    assert [[run.path.name for run in group.runs] for group in groups] == [["a", "b"], ["c"]]
    assert [group.label for group in groups] == [
        "atari_breakout (loss.discount=0.99)",
        "atari_breakout (loss.discount=0.9)",
    ]
    assert ("loss.discount", ["0.99", "0.9"]) in differing_options(groups)
    assert ("seed", ["1, 2", "1"]) in differing_options(groups)


@pytest.mark.seconds
def test_a_band_spans_seeds_that_logged_at_different_steps(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / str(seed), seed=seed, rows=50)) for seed in (1, 2, 5)]
    xs, mean, low, high = band(runs, "mean_return_100")
    inside = (xs > 2000) & (xs < 49_000)
    assert np.allclose((high - low)[inside], 4, atol=0.5)
    assert np.allclose((mean - low)[inside], 5 / 3, atol=0.5)
    assert np.all(np.diff(xs) > 0)


@pytest.mark.seconds
def test_a_long_log_is_averaged_down_without_losing_its_mean(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "long", rows=5000))
    xs, mean, _, _ = band([run], "mean_return_100")
    assert len(xs) <= 300
    assert mean.mean() == pytest.approx(np.mean(run.series("mean_return_100")[1]), rel=0.01)


@pytest.mark.seconds
def test_text_of_a_configuration_cannot_break_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    config = (folder / "config.yaml").read_text().replace("name: atari_breakout", "name: <b>&'\"", 1)
    (folder / "config.yaml").write_text(config)
    output = tmp_path / "page.html"
    assert main([str(folder), "--output", str(output)]) == 0
    page = Page(output.read_text())
    assert "b" not in page.tags
    assert "<b>&'\"" in page.words


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "there is no such folder"),
        (lambda path: path.mkdir(), "expected a folder with metrics.jsonl"),
        (lambda path: (path.mkdir(), (path / "metrics.jsonl").touch()), "has not logged anything yet"),
        (lambda path: (path.mkdir(), (path / "metrics.jsonl").write_text("hello\nyou\n")), "line 1 is not a row"),
        (lambda path: make_run(path / "inner"), "runs inside it"),
    ],
)
def test_a_folder_without_a_run_is_one_clear_line(tmp_path: Path, capsys, prepare, message: str) -> None:
    prepare(tmp_path / "run")
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


@pytest.mark.seconds
def test_a_page_that_cannot_be_written_is_one_clear_line(tmp_path: Path, capsys) -> None:
    folder = make_run(tmp_path / "run")
    assert main([str(folder), "--output", str(folder / "metrics.jsonl" / "page.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match="is not YAML"):
        read_run(folder)
