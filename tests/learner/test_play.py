"""Videos of random play and of a checkpoint."""

from pathlib import Path

import pytest
from PIL import Image

from learner import train_main
from learner.play_main import main


def test_random_play_is_recorded_with_a_contact_sheet(tmp_path: Path):
    output = tmp_path / "pong.gif"
    assert main(["env=atari/pong", "policy=random", "steps=20", f"output={output}"]) == 0
    with Image.open(output) as video:
        assert getattr(video, "n_frames", 1) > 5
    with Image.open(tmp_path / "pong.png") as sheet:
        width, height = sheet.size
    assert width > 900
    assert height > 800


@pytest.mark.slow
def test_a_checkpoint_is_recorded(tmp_path: Path):
    words = [
        "env=atari/pong",
        "fleet=local",
        "fleet.num_actors=1",
        "actors.num_envs=2",
        "actors.unroll=3",
        "logging=quiet",
    ]
    assert (
        train_main.main(
            [*words, "total_steps=12", "network.num_units=8", "network.features=8", f"run_dir={tmp_path}/run"]
        )
        == 0
    )
    assert main([f"checkpoint={tmp_path}/run", "policy=greedy", "steps=5", f"output={tmp_path}/a.gif"]) == 0
    assert (tmp_path / "a.gif").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=3"], "nothing to play: give checkpoint=RUN, or env=SUITE/NAME with policy=random"),
        (["checkpoint=/nowhere"], "no checkpoint at /nowhere"),
        (["env=tmaze", "policy=random"], "has no picture: there is nothing to record"),
        (
            ["env=atari/pong", "policy=random", "steps=2", "output=/tmp/x.avi"],
            "expected a file that ends in .gif or .mp4",
        ),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(words) == 2
    assert message in capsys.readouterr().err
