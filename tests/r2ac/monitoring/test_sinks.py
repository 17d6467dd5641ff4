"""Every sink writes the same row, and none of them gets in the way of training."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from empty_statistics import no_statistics
from rich.console import Console

from conf.load import load_train
from learner.receipts import Counters, Receipt, Update, Verdict
from r2ac.monitoring.metrics import METRICS, Row, check_row, markdown_table, split_name
from r2ac.monitoring.panel import LivePanel, bottleneck, summary_line
from r2ac.monitoring.sinks import open_sinks
from r2ac.monitoring.sinks.continuation import Continuation, find_continuation
from r2ac.monitoring.sinks.event_files import TensorBoardSink
from r2ac.monitoring.sinks.run_files import JsonlSink, SummarySink
from r2ac.monitoring.tally import Tally
from rtrl_core import ContributionHeader, Episode

RELIED_ON = {
    "agent_steps",
    "frames",
    "updates",
    "steps_per_second",
    "mean_return_100",
    "episodes",
    "policy_lag_mean",
    "policy_lag_max",
    "wire_bytes_per_step",
    "contributions_accepted",
    "contributions_dropped",
    "contributions_refused",
    "actor_restarts",
    "learner_restarts",
    "peak_rss_bytes",
}


def make_row(levels: tuple[str, ...] = ()) -> dict[str, float | int | None]:
    tally = Tally(levels, total_steps=1000)
    tally.start()
    nothing = ContributionHeader(1, 0, 0, 0, num_steps=0, num_frames=0, num_segments=0)
    tally.add([Receipt(nothing, no_statistics(), Verdict.ACCEPTED, "", 0, None, Counters(), 0.0)])
    tally.row({})  # before it there is no speed
    statistics = no_statistics()
    statistics = type(statistics)(
        **{
            **{name: getattr(statistics, name) for name in statistics.__slots__},
            "episodes": (Episode(3.0, 10, 0 if levels else None), Episode(5.0, 20, 0 if levels else None)),
            "level_steps": tuple(5 for _ in levels),
            "env_time_s": 3.0,
            "act_time_s": 1.0,
            "target_sum": 4.0,
            "target_square_sum": 10.0,
            "error_square_sum": 1.0,
        }
    )
    header = ContributionHeader(1, 0, 0, 0, num_steps=10, num_frames=40, num_segments=2)
    update = Update(1e-3, 5.0, {"stem": 3.0, "core": 4.0, "heads": 0.0})
    counters = Counters(version=1, updates=1, agent_steps=10, frames=40, accepted=1, wire_bytes=400)
    tally.add([Receipt(header, statistics, Verdict.ACCEPTED, "", 2, update, counters, 0.01)])
    return tally.row(
        {
            "actor_restarts": 0,
            "learner_restarts": 0,
            "checkpoint_age_s": 1.0,
            "object_store_bytes": 0.0,
            "actors_alive": 1.0,
        }
    )


def test_a_row_has_every_name_that_other_programs_rely_on():
    row = make_row()
    assert set(row) >= RELIED_ON
    check_row(row)


def test_the_numbers_of_a_row_are_right():
    row = make_row(levels=("maze", "arena"))
    check_row(row)
    assert (row["agent_steps"], row["frames"], row["episodes"], row["mean_return_100"]) == (10, 40, 2, 4.0)
    assert (row["policy_lag_mean"], row["policy_lag_max"], row["wire_bytes_per_step"], row["progress"]) == (
        2.0,
        2,
        40.0,
        0.01,
    )
    assert (row["env_share"], row["act_share"], row["gradient_norm_core"]) == (0.75, 0.25, 4.0)
    assert row["explained_variance"] == pytest.approx(1 - 0.1 / (1.0 - 0.16))
    assert (row["level_return/maze"], row["level_return/arena"], row["level_steps/arena"]) == (4.0, None, 5)


def test_a_name_that_is_not_in_the_table_is_refused():
    for name in ("loss", "level_return", "entropy/maze"):
        with pytest.raises(KeyError, match=re.escape(name)):
            check_row({name: 1.0})


def test_every_metric_is_explained_in_the_docs_table():
    table = markdown_table()
    assert all(f"| `{name}" in table for name in METRICS)
    assert all(metric.meaning for metric in METRICS.values())


def test_a_half_written_line_is_removed_when_the_run_goes_on(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"agent_steps": 1}\n{"agent_st')
    sink = JsonlSink(path, find_continuation(path, agent_steps=1, wall_time_s=0.0))
    sink.write({"agent_steps": 2, "explained_variance": float("inf")})
    sink.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"agent_steps": 1},
        {"agent_steps": 2, "explained_variance": None},
    ]


def test_the_summary_is_the_newest_row_with_the_texts(tmp_path: Path):
    sink = SummarySink(tmp_path / "summary.json", {"git_revision": "abc", "config_hash": "def"})
    for steps in (1, 2):
        sink.write({"agent_steps": steps})
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "agent_steps": 2,
        "git_revision": "abc",
        "config_hash": "def",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_tensorboard_has_agent_steps_on_its_axis(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path, Continuation())
    sink.write({**make_row(), "agent_steps": 1234})
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Scalars("learning/mean_return_100")[0].step == 1234
    assert events.Scalars("learning/frames")[0].value == 40


def test_the_panel_and_the_plain_line_show_what_matters():
    row = make_row()
    console = Console(width=120, record=True, file=io.StringIO(), force_terminal=True)
    panel = LivePanel("atari_breakout", 1000, console)
    panel.write(row)
    panel.event("actor 3 restarted")
    panel.close()
    console.print(panel._draw())
    text = console.export_text()
    for word in (
        "atari_breakout",
        "return (last 100)",
        "4.00",
        "policy lag",
        "gradient norm",
        "entropy",
        "restarts",
        "actor 3 restarted",
    ):
        assert word in text
    for word in ("steps/s", "frames/s", "return 4.00", "lag 2.0", "restarts 0", "left"):
        assert word in summary_line(row)


def test_the_bottleneck_is_named():
    assert "environment (75 %" in bottleneck(make_row())
    assert bottleneck({"env_share": 0.2, "actor_wait_share": 0.5, "learner_idle_share": 0.01}) == "bottleneck: learner"
    assert bottleneck({}) == ""


def test_the_default_sinks_touch_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with open_sinks(load_train(["experiment=tmaze", "fleet=local", "logging.terminal=none"]), tmp_path, {}) as sinks:
        sinks.write(make_row())
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "summary.json", "tensorboard"}


def receipt(steps_before: int, steps: int = 10, wait_time_s: float = 0.0, actor_id: int = 0) -> Receipt:
    statistics = replace(no_statistics(), env_time_s=1.0, wait_time_s=wait_time_s)
    header = ContributionHeader(actor_id, 0, 0, 0, num_steps=steps, num_frames=4 * steps, num_segments=2)
    counters = Counters(agent_steps=steps_before + steps, frames=4 * (steps_before + steps), wire_bytes=100)
    return Receipt(header, statistics, Verdict.ACCEPTED, "", 0, None, counters, 0.5)


SPEEDS = ("steps_per_second", "frames_per_second", "wire_bytes_per_second", "eta_s", "learner_idle_share")


def test_a_run_has_no_speed_before_it_has_begun_and_then_that_of_what_came_since(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("r2ac.monitoring.tally.time.monotonic", lambda: now)
    tally = Tally((), 1000)
    tally.start()
    now += 50  # warming up
    row = tally.row({})
    assert [row[name] for name in SPEEDS] == [None] * len(SPEEDS)
    assert bottleneck(row) == "starting"
    assert "- steps/s" in summary_line(row)
    now += 50
    tally.add([receipt(0)])
    row = tally.row({})  # the first contribution took a hundred seconds of starting
    assert [row[name] for name in SPEEDS] == [None] * len(SPEEDS)
    assert "actor_steps_per_second/0" not in row
    assert bottleneck(row) == "starting"
    assert (row["agent_steps"], row["wall_time_s"]) == (10, 100.0)
    now += 2
    tally.add([receipt(10)])
    row = tally.row({})
    assert (row["steps_per_second"], row["actor_steps_per_second/0"], row["learner_idle_share"]) == (5.0, 5.0, 0.75)
    assert bottleneck(row) == "bottleneck: environment (100 % of the actors' time)"


def row_of_fleet(monkeypatch: pytest.MonkeyPatch, num_actors: int) -> Row:
    """Two seconds in which each actor makes twice its number of steps, and the first five send nothing."""
    now = 100.0
    monkeypatch.setattr("r2ac.monitoring.tally.time.monotonic", lambda: now)
    tally = Tally((), 1_000_000)
    tally.start()
    tally.add([receipt(0, actor_id=3)])
    tally.row({})
    now += 2.0
    tally.add([receipt(0, steps=2 * actor_id, actor_id=actor_id) for actor_id in range(5, num_actors)])
    row = tally.row({}, range(num_actors))
    check_row(row)
    return {name: value for name, value in row.items() if ("actor" in name and "per_second" in name) or "slow" in name}


def test_of_a_large_fleet_a_row_has_the_spread_of_its_speeds_and_the_ten_slowest(monkeypatch: pytest.MonkeyPatch):
    row = row_of_fleet(monkeypatch, 101)
    speeds = [0.0] * 5 + [float(actor_id) for actor_id in range(5, 101)]
    spread = {f"actor_steps_per_second_p{percent}": float(np.percentile(speeds, percent)) for percent in (5, 50, 95)}
    ranks = {f"slowest_actor/{rank}": rank - 1 for rank in range(1, 11)}
    assert row == spread | ranks | {f"slowest_actor_steps_per_second/{n}": speeds[n - 1] for n in range(1, 11)}


@pytest.mark.parametrize("num_actors", [65, 1000, 10_000])
def test_a_row_does_not_grow_with_a_large_fleet(monkeypatch: pytest.MonkeyPatch, num_actors: int):
    assert len(row_of_fleet(monkeypatch, num_actors)) == 23


def test_of_a_small_fleet_a_row_has_each(monkeypatch: pytest.MonkeyPatch):
    assert set(row_of_fleet(monkeypatch, 64)) == {f"actor_steps_per_second/{actor_id}" for actor_id in range(5, 64)}


def test_the_first_interval_is_timed_from_the_first_contribution(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("r2ac.monitoring.tally.time.monotonic", lambda: now)
    tally = Tally((), 1000)
    tally.start()
    now += 50
    tally.add([receipt(0)])
    now += 2
    tally.add([receipt(10)])
    assert tally.row({})["steps_per_second"] == 5.0


def test_the_panel_says_that_a_run_is_starting() -> None:
    console = Console(width=120, record=True, file=io.StringIO(), force_terminal=True)
    panel = LivePanel("atari_breakout", 1000, console)
    panel.close()
    console.print(panel._draw())
    assert "starting" in console.export_text()


def test_a_run_that_stands_still_has_speed_zero(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("r2ac.monitoring.tally.time.monotonic", lambda: now)
    tally = Tally((), 1000)
    tally.start()
    tally.add([receipt(0)])
    tally.row({})
    now += 10
    row = tally.row({})
    assert (row["steps_per_second"], row["eta_s"]) == (0.0, None)
    assert bottleneck(row) == ""


def test_totals_of_environments_survive_a_restart_of_their_actor():
    tally = Tally((), 1000)
    torch.manual_seed(0)
    for incarnation, count in ((0, 3.0), (0, 5.0), (1, 1.0)):
        statistics = no_statistics()
        statistics.env_counters["engine_restarts"] = count
        header = ContributionHeader(0, incarnation, 0, 0, 1, 1, 1)
        tally.add([Receipt(header, statistics, Verdict.ACCEPTED, "", 0, None, Counters(), 0.0)])
    assert tally.row({})["engine_restarts"] == 6.0
    assert split_name("level_return/x/y") == ("level_return", "x/y")
