"""What surrounds a real run breaks, and the run goes on: a helper process of a logger, the disk, the process itself."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from started_run import StartedRun, gone, started

from r2ac.persistence import checkpoint as checkpoints

pytestmark = pytest.mark.slow

DISK_BYTES = 4 * 1024**2


def wandb_steps(run_dir: Path) -> list[list[int]]:
    """The steps that each part of an offline run holds, oldest part first."""
    parts = []
    for folder in sorted((run_dir / "wandb").glob("offline-run-*")):
        command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", folder]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        records: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        steps = [record["history"]["step"] for record in records if record["type"] == "history"]
        parts.append([int(step["num"]) if isinstance(step, dict) else int(step) for step in steps])
    return parts


@pytest.mark.soak
def test_a_run_goes_on_without_the_helper_process_of_weights_and_biases(tmp_path: Path):
    with started(tmp_path / "run", "fleet=local", "logging.wandb=offline") as run:
        run.wait_until(
            "a first row there", lambda: run.steps and list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
        )
        run.wait_for_steps(run.steps + 500)
        (helper,) = [process for process in run.family() if process.name() == "wandb-core"]
        helper.kill()
        run.wait_until("the word of it", lambda: "Weights & Biases failed" in run.output)
        run.wait_for_steps(run.steps + 2000)
        family = run.family()
        run.process.terminate()
        assert run.end() == 0, run.output[-3000:]
        assert gone(family)
    lines = [line for line in run.output.splitlines() if "Weights" in line]
    assert len(lines) == 1
    assert lines[0].endswith("training goes on, rows are missing there")
    assert "Traceback" not in run.output
    assert run.rows[-1]["agent_steps"] == run.steps == run.checkpoint_steps


@pytest.mark.soak
def test_every_log_of_a_killed_run_goes_on_without_going_back(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("fleet=local", "logging.wandb=offline", "logging.tensorboard=true", "logging.checkpoint_interval_s=4")
    with started(tmp_path / "run", *words) as run:
        run.wait_until("a second checkpoint", lambda: len(checkpoints.available(run.run_dir)) > 1)
        saved = run.checkpoint_steps
        run.wait_for_steps(saved + 1)
        run.process.kill()
        run.process.wait()
    saved = run.checkpoint_steps
    beyond = run.rows[-1]["agent_steps"]
    with started(tmp_path / "run", *words) as run:
        run.wait_for_steps(max(saved, beyond) + 2000)
        run.process.terminate()
        assert run.end() == 0, run.output[-3000:]
    steps = [row["agent_steps"] for row in run.rows]
    assert steps == sorted(set(steps))
    for name in ("wall_time_s", "episodes", "updates"):
        values = [row[name] for row in run.rows]
        assert values == sorted(values), name
    events = EventAccumulator(str(run.run_dir / "tensorboard"))
    events.Reload()
    shown = [event.step for event in events.Scalars("learning/frames")]
    assert shown == sorted(set(shown))
    assert shown[-1] == steps[-1]
    # Each log has a thread of its own: one may be a row ahead of the other when all are killed.
    assert len(set(shown) ^ set(steps)) <= 2
    parts = wandb_steps(run.run_dir)
    assert len(parts) == 2
    uploaded = [step for part in parts for step in part]
    assert uploaded == sorted(set(uploaded))
    assert uploaded[-1] == steps[-1]
    names = {folder.name.rpartition("-")[2] for folder in (run.run_dir / "wandb").glob("offline-run-*")}
    assert len(names) == 1  # one run, in two parts
    assert run.steps == steps[-1] == run.checkpoint_steps


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while os.write(descriptor, bytes(size)):
                    pass
            except OSError:
                continue
    finally:
        os.close(descriptor)
    return filler


def whole(run: StartedRun) -> int:
    return checkpoints.load(checkpoints.find(run.run_dir)).agent_steps


def test_a_run_trains_through_a_full_disk_and_writes_again_when_there_is_room(small_disk: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with started(small_disk / "run", "fleet=local", "logging.tensorboard=true", log=small_disk.parent / "log") as run:
        run.wait_until("a checkpoint", lambda: run.checkpoint_steps > 0)
        filler = fill(small_disk)
        run.wait_until(
            "the word of it", lambda: "could not be written" in run.output and "metrics.jsonl failed" in run.output
        )
        fill(small_disk)
        last = whole(run)
        filler.unlink()
        run.wait_until("a new checkpoint", lambda: run.checkpoint_steps > last)
        run.wait_for_steps(run.steps + 500)
        run.process.terminate()
        assert run.end() == 0, run.output[-3000:]
    for name in ("metrics.jsonl", "summary.json", "TensorBoard"):
        assert run.output.count(f"{name} failed (No space left on device") <= 1
    assert run.output.count("metrics.jsonl failed (No space left on device: ") == 1
    assert run.output.count("could not be written (No space left on device)") == 1
    assert "Traceback" not in run.output
    steps = [row["agent_steps"] for row in run.rows]
    assert steps == sorted(set(steps))
    events = EventAccumulator(str(run.run_dir / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("learning/frames")] == steps
    shown = [int(number.replace(",", "")) for number in re.findall(r"^ *([\d,]+) steps  ", run.output, re.MULTILINE)]
    assert last < max(shown)
    assert set(shown) <= set(steps), "rows of the time without room are missing"
    assert steps[-1] == run.steps == whole(run)
    assert run.attempt["ended"]


def test_a_run_that_ends_on_a_full_disk_says_so_in_one_line_and_leaves_the_checkpoint_before(small_disk: Path):
    with started(small_disk / "run", "fleet=local", log=small_disk.parent / "log") as run:
        run.wait_until("a checkpoint", lambda: run.checkpoint_steps > 0)
        fill(small_disk)
        last = whole(run)
        run.process.terminate()
        assert run.end() == 1
    errors = [line for line in run.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(run.run_dir / "checkpoints") in errors[0]
    assert "could not be written (No space left on device): free space there" in errors[0]
    assert "Traceback" not in run.output
    assert whole(run) == last
    assert run.attempt["ended"]


def test_a_run_that_finds_a_full_disk_does_not_begin(small_disk: Path):
    fill(small_disk)
    with started(small_disk / "run", "fleet=local", log=small_disk.parent / "log") as run:
        assert run.end() in (1, 2)
    assert len([line for line in run.output.splitlines() if line.startswith("error: ")]) == 1
    assert "No space left on device" in run.output
    assert "Traceback" not in run.output
