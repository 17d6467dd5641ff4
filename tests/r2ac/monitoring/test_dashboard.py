"""The dashboard shows what the program exports: nothing that does not exist, and nothing left out by accident."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r2ac.monitoring import dashboard
from r2ac.monitoring.metrics import METRICS

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (package prometheus) is not installed here")


def names_in(text: str) -> set[str]:
    """Metrics of ours that PromQL asks for; alternatives in a regular expression are taken apart."""
    text = re.sub(
        r"ray_rtrl_\(([\w|]+)\)(\w+)", lambda m: " ".join(f"ray_rtrl_{a}{m[2]}" for a in m[1].split("|")), text
    )
    return set(re.findall(r"ray_rtrl_(\w+)", text))


def test_the_files_are_what_the_program_writes() -> None:
    """If this fails: python -m r2ac.monitoring.dashboard."""
    for name, render in dashboard.PAGES.items():
        assert (ROOT / name).read_text() == render(), name


def test_every_panel_asks_for_metrics_that_exist_and_every_metric_is_in_a_panel() -> None:
    board = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "r2ac.json").read_text())
    asked = names_in(json.dumps([panel.get("targets", []) for panel in board["panels"]]))
    assert asked - METRICS.keys() == set()
    assert METRICS.keys() - asked - dashboard.NOT_SHOWN.keys() == set()
    assert dashboard.NOT_SHOWN.keys() - METRICS.keys() == set()


def test_a_panel_for_a_metric_that_does_not_exist_cannot_be_made() -> None:
    with pytest.raises(KeyError):
        dashboard.expression("no_such_metric")


def test_there_is_a_row_for_every_question_and_a_link_from_every_panel() -> None:
    board = json.loads(dashboard.render())
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Is it learning?", "Is it fast?", "Is it healthy?", "Per actor"]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["links"] and panel["description"] and panel["targets"] for panel in panels)


def test_no_two_panels_overlap() -> None:
    seen: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard.render())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & seen, panel["title"]
        assert place["x"] + place["w"] <= dashboard.COLUMNS
        seen |= cells


def test_alerts_ask_for_metrics_that_exist() -> None:
    assert names_in(ALERTS.read_text()) - METRICS.keys() == set()


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert PROMTOOL is not None
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([PROMTOOL, *words], cwd=ALERTS.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    rules = [
        {"record": f"panel_{index}", "expr": text.replace("$__rate_interval", "1m").replace("$run", ".*")}
        for index, text in enumerate(dashboard.expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_program_writes_nothing_when_it_is_imported(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", "import r2ac.monitoring.dashboard"], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
