"""rtrl-dmlab-cache against the stand-in for the engine: what it builds is what a run with the same options finds."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from conf.env_schema import DMLabConfig
from envs.dmlab.levels import BUILD_MAPS
from envs.registry import make_env
from r2ac.commands import train
from r2ac.commands.dmlab_cache import main

STANDINS = Path(__file__).parents[2] / "standins"
LEVEL = "rooms_keys_doors_puzzle"


@pytest.fixture(autouse=True)
def standin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STANDINS))


def counts(output: str) -> tuple[int, int, int]:
    """Episodes, maps built, maps found."""
    found = re.search(r"(\d+) episodes: (\d+) maps built, (\d+) were there", output)
    assert found is not None, output
    return int(found[1]), int(found[2]), int(found[3])


@pytest.mark.seconds
def test_a_run_finds_every_level_that_was_built_ahead(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cache = tmp_path / "levels"
    words = [f"level_cache={cache}", f"levels=[{LEVEL}]", "num_levels=5", "start_level=40", "workers=2"]
    assert main(words) == 0
    output = capsys.readouterr().out
    episodes, built, found = counts(output)
    assert (episodes, built, found) == (5, 5 + 2, 0), "five, and the throw-away first episode of each of two engines"
    assert "env.start_level=40 env.num_levels=5" in output

    assert main(words) == 0
    assert counts(capsys.readouterr().out) == (5, 2, 5)

    config = DMLabConfig(name=LEVEL, num_levels=5, start_level=40, level_cache=str(cache), wait_for_reset=True)
    env = make_env(config, 2, 1)
    try:
        env.reset()
        for _ in range(60):
            env.step(np.zeros(2, np.int64))
        statistics = env.statistics()
    finally:
        env.close()
    engines = 2 + config.spare_engines
    assert statistics["cache_misses"] == engines, "only the throw-away episodes were not there"
    assert statistics["cache_hits"] > 5


def test_an_engine_that_dies_costs_one_level_and_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "exit-reset").touch()
    monkeypatch.setenv("FAKE_LAB", json.dumps({"faults": str(faults)}))
    assert main([f"level_cache={tmp_path / 'levels'}", f"levels=[{LEVEL}]", "num_levels=3", "workers=1"]) == 1
    output = capsys.readouterr().out
    assert counts(output)[0] == 2
    assert f"1 episodes could not be begun, for instance contributed/dmlab30/{LEVEL} with seed 0" in output


def test_a_cache_that_is_too_small_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [f"level_cache={tmp_path / 'levels'}", f"levels=[{LEVEL}]", "num_levels=8", "workers=1"]
    assert main([*words, "level_cache_bytes=1000"]) == 0
    assert "raise level_cache_bytes" in capsys.readouterr().out


@pytest.mark.seconds
def test_a_run_says_once_that_its_cache_cannot_be_written_and_counts_what_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["env=dmlab", f"env.name={LEVEL}", "env.level_cache=/proc", "network=impala", "fleet=local"]
    sizes = ["fleet.num_actors=2", "actors.num_envs=2", "actors.unroll=3", "network.num_units=8", "network.features=8"]
    logs = ["logging.terminal=plain", "total_steps=24", f"run_dir={tmp_path}/run"]
    assert train.main([*words, *sizes, *logs]) == 0
    said = capsys.readouterr().out
    assert said.count("maps are built but not kept: env.level_cache=/proc cannot be written (") == 1
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["cache_failures"] >= 4
    assert last["cache_failures"] == last["cache_misses"]


def test_maps_that_could_not_be_kept_are_told_and_the_status_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = tmp_path / "store"
    store.touch()  # a file where the second tier should be: nothing can be written behind it
    words = [f"level_cache={tmp_path / 'levels'}", f"level_cache_remote=file://{store}", f"levels=[{LEVEL}]"]
    assert main([*words, "num_levels=2", "workers=1"]) == 1
    assert "error: 3 of the maps built could not be kept: level_cache=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["level_cache=LEVELS", "levels=[rooms_watermase]"], "unknown DMLab level 'rooms_watermase': did you mean"),
        (["level_cache=LEVELS", "num_levels=0"], "num_levels must be at least 1, got 0"),
        (["level_cache=LEVELS", "seeds=3"], "unknown option 'seeds'"),
        (["level_cache=/proc", f"levels=[{LEVEL}]"], "level_cache=/proc: expected a folder that can be written, got: "),
        (
            ["level_cache=LEVELS", "level_cache_remote=s4://levels"],
            "level_cache_remote=s4://levels: Protocol not known",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main([word.replace("LEVELS", str(tmp_path)) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_by_default_the_fifteen_levels_that_build_maps_are_built():
    assert len(BUILD_MAPS) == 15
    assert {"rooms_keys_doors_puzzle", "skymaze_irreversible_path_hard", "explore_object_rewards_many"} < set(
        BUILD_MAPS
    )
