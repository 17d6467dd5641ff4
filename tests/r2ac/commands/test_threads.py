"""No program of ours takes more cores than it was given: on a busy machine, threads that wait for each other cost twenty times."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from r2ac.commands import copy_task, evaluate, play, train

TOO_MANY = 5
RUN = [
    "experiment=tmaze",
    "env.corridor=3",
    "fleet=local",
    "fleet.num_actors=1",
    "actors.num_envs=4",
    "actors.unroll=4",
]
QUIET = ["logging=quiet", "total_steps=32"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train.main([*RUN, *QUIET, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def many_threads() -> Iterator[None]:
    """As torch itself chooses on a machine of many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(TOO_MANY)
    yield
    torch.set_num_threads(before)


@pytest.mark.seconds
@pytest.mark.parametrize(("words", "threads"), [([], 1), (["threads=2"], 2)])
@pytest.mark.parametrize(
    ("main", "more"),
    [
        (evaluate.main, ["checkpoint=RUN", "episodes=1"]),
        (play.main, ["env=atari/breakout", "policy=random", "steps=2", "output=FOLDER/play.gif"]),
    ],
    ids=["evaluate", "play"],
)
def test_evaluation_and_play_take_the_threads_they_are_given(
    run_dir: Path, tmp_path: Path, main: Callable[[list[str]], int], more: list[str], words: list[str], threads: int
):
    places = {"RUN": str(run_dir), "FOLDER": str(tmp_path)}
    for name, place in places.items():
        more = [word.replace(name, place) for word in more]
    assert main([*more, *words]) == 0
    assert torch.get_num_threads() == threads


@pytest.mark.seconds
def test_training_in_one_process_takes_its_actors_threads(tmp_path: Path):
    assert train.main([*RUN, *QUIET, "actors.threads=2", f"run_dir={tmp_path}/run"]) == 0
    assert torch.get_num_threads() == 2


@pytest.mark.seconds
def test_the_copy_task_takes_one_thread():
    assert copy_task.main(["length=1", "num_units=2", "batch=1", "sequences=1"]) == 0
    assert torch.get_num_threads() == 1
