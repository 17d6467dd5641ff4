"""However a run is told to end, it saves, writes its last row, gives its folder back and ends with status 0."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import psutil
import pytest
from patience import patience, wait_until
from started_run import StartedRun, gone, started

from r2ac.persistence import checkpoint as checkpoints

pytestmark = pytest.mark.slow


def assert_ended_well(run: StartedRun, family: list[psutil.Process]) -> None:
    assert run.end() == 0, run.output[-3000:]
    assert "Traceback" not in run.output
    assert "received at time" not in run.output  # as the C++ part of Ray says it
    saved = checkpoints.load(checkpoints.find(run.run_dir)).agent_steps
    assert saved > 0
    assert run.rows[-1]["agent_steps"] == run.steps == saved
    assert run.attempt["ended"]
    assert gone(family)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGXCPU], ids=lambda number: number.name)
def test_an_ending_signal_saves(tmp_path: Path, number: signal.Signals):
    with started(tmp_path / "run", "fleet=local") as run:
        run.wait_for_steps(200)
        family = run.family()
        run.process.send_signal(number)
        assert_ended_well(run, family)
        assert f"{number.name}: finishing" in run.output


@pytest.mark.soak
def test_a_signal_to_the_whole_process_group_leaves_ray_to_the_run(tmp_path: Path):
    with started(tmp_path / "run") as run:
        run.wait_for_steps(200)
        family = run.family()
        assert len(family) > 4
        os.kill(run.process.pid, signal.SIGHUP)  # as timeout does it: one to the process, one to its group
        os.killpg(run.process.pid, signal.SIGHUP)
        assert_ended_well(run, family)


@pytest.mark.soak
def test_the_real_timeout_ends_a_run_cleanly(tmp_path: Path):
    run_dir = tmp_path / "run"
    with started(run_dir, before=["timeout", "--preserve-status", "3600"]) as run:
        run.wait_for_steps(200)
        family = run.family()
        os.kill(run.process.pid, signal.SIGTERM)  # timeout passes it on to its whole group
        assert_ended_well(run, family)


def test_a_signal_while_the_run_starts_ends_it_at_once_and_leaves_nothing_running(tmp_path: Path):
    with started(tmp_path / "run") as run:
        run.wait_until("the raylet", lambda: [p for p in run.family() if p.name() == "raylet"])
        family = run.family()
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.end() == 0, run.output[-3000:]
        assert "SIGTERM: stopped before training began" in run.output
        assert "Traceback" not in run.output
        assert gone(family)
    assert [path.name for path in run.run_dir.iterdir()] == ["attempts"]
    assert run.attempt["ended"]


def test_ctrl_c_again_ends_at_once_but_not_if_it_is_the_same_one(tmp_path: Path):
    with started(tmp_path / "run", "fleet=local", "logging.checkpoint_interval_s=3600", "env.corridor=4") as run:
        run.wait_for_steps(200)
        run.process.send_signal(signal.SIGINT)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 0, run.output[-3000:]
        assert run.checkpoint_steps == run.steps


def test_a_run_under_nohup_does_not_hear_its_terminal_close(tmp_path: Path):
    with started(tmp_path / "run", "fleet=local", before=["nohup"]) as run:
        run.wait_for_steps(200)
        run.process.send_signal(signal.SIGHUP)
        run.wait_for_steps(run.steps + 500)
        family = run.family()
        run.process.send_signal(signal.SIGTERM)
        assert_ended_well(run, family)


def test_a_reader_of_its_lines_that_goes_away_does_not_end_a_run(tmp_path: Path):
    read, write = os.pipe()
    with started(tmp_path / "run", "fleet=local", stdout=write) as run:
        os.close(write)
        os.read(read, 1)
        os.close(read)  # as "| head -1" does
        run.wait_for_steps(2000)
        family = run.family()
        run.process.send_signal(signal.SIGTERM)
        assert_ended_well(run, family)
        assert run.output.count("the terminal failed (Broken pipe): training goes on, its lines are missing") == 1


INTERRUPTED_AT_ITS_IMPORT_OF_TORCH = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
"""


def changed_python(folder: Path, program: str) -> dict[str, str]:
    """Variables with which every Python runs this program first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(program)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}


@pytest.mark.parametrize("program", ["rtrl-train", "rtrl-evaluate"])
def test_ctrl_c_while_a_program_imports_is_no_traceback(program: str, tmp_path: Path):
    command = [Path(sysconfig.get_path("scripts")) / program, f"run_dir={tmp_path / 'run'}"]
    environment = changed_python(tmp_path / "site", INTERRUPTED_AT_ITS_IMPORT_OF_TORCH)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT
    assert ended.stdout + ended.stderr == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["train", "play"])
def test_help_may_be_read_in_part(module: str):
    command = f"{sys.executable} -m r2ac.commands.{module} --help | head -1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stdout
    assert not result.stderr


def test_ctrl_c_while_a_local_job_is_followed_lets_it_save(tmp_path: Path):
    words = [
        "fleet=local",
        "fleet.num_actors=1",
        "experiment=tmaze",
        "logging.interval_s=0.2",
        "total_steps=1_000_000_000",
    ]
    command = [sys.executable, "-m", "r2ac.commands.submit", "job_name=job", f"run_root={tmp_path}", *words]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:

        def has_a_row() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            return (tmp_path / "job" / "summary.json").exists()

        wait_until("row", has_a_row)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(patience(60)) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    output = (tmp_path / "log").read_text()
    assert "Traceback" not in output
    assert "job job succeeded" in output
    assert checkpoints.load(checkpoints.find(tmp_path / "job")).agent_steps > 0


SAYS_WHEN_IT_PLAYS = """
from actors import evaluation
play = evaluation.play
def seen(*arguments, **options):
    for move in play(*arguments, **options):
        open({path!r}, "w").close()
        yield move
evaluation.play = seen
"""


@pytest.mark.parametrize("module", ["evaluate", "play"])
def test_ctrl_c_in_the_other_programs_is_no_traceback(module: str, tmp_path: Path):
    if module == "evaluate":
        with started(tmp_path / "run", "fleet=local", "total_steps=100") as run:
            assert run.end() == 0
        words = [f"checkpoint={tmp_path}/run", "episodes=1000000"]
    else:
        words = ["env=atari/breakout", "policy=random", "steps=1000000", f"output={tmp_path}/a.gif"]
    command = [sys.executable, "-m", f"r2ac.commands.{module}", *words]
    plays = tmp_path / "plays"
    environment = changed_python(tmp_path / "site", SAYS_WHEN_IT_PLAYS.format(path=str(plays)))
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until("a first move", lambda: plays.exists() or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=patience(60))
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
