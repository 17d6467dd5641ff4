"""Videos of random play and of a checkpoint."""

import importlib.util
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from counting_env import EPISODE, CountingEnv
from PIL import Image

from actors.build import build_seeded_network
from actors.evaluation import play
from conf.env_schema import AtariConfig
from conf.schema import NetworkConfig, RuleConfig
from envs.base import Timestep
from envs.registry import make_env
from r2ac.commands import train, video
from r2ac.commands.play import PlayConfig, main, record

TOY = ["fleet=local", "fleet.num_actors=1", "actors.num_envs=2", "actors.unroll=3", "logging=quiet", "total_steps=12"]
SMALL = ["network.num_units=8", "network.features=8"]


@pytest.mark.seconds
def test_random_play_is_recorded_with_a_contact_sheet(tmp_path: Path):
    output = tmp_path / "pong.gif"
    assert main(["env=atari/pong", "policy=random", "steps=20", f"output={output}"]) == 0
    with Image.open(output) as recorded:
        assert getattr(recorded, "n_frames", 1) > 5
    with Image.open(tmp_path / "pong.png") as sheet:
        width, height = sheet.size
    assert width > 900
    assert height > 800


@pytest.mark.seconds
@pytest.mark.skipif(importlib.util.find_spec("procgen") is None, reason="procgen-mirror has no wheel for this Python")
def test_options_of_the_environment_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["env=procgen/chaser", "policy=random", "steps=2", f"output={tmp_path}/a.gif"]
    assert main([*words, "env.mode=easy"]) == 0
    assert main([*words, "env.mode=memory"]) == 2
    assert "ProcGen's chaser has no mode 'memory'" in capsys.readouterr().err


@pytest.mark.seconds
def test_a_picture_is_what_the_policy_saw_and_its_caption_what_it_then_did(monkeypatch: pytest.MonkeyPatch):
    def network_and_env():
        env = make_env(AtariConfig(name="pong"), 1, 4)
        return build_seeded_network(NetworkConfig(features=4, num_units=4), RuleConfig(), env.spec, 1), env

    seen: list[tuple[np.ndarray, list[str]]] = []
    monkeypatch.setattr("r2ac.commands.play.captioned", lambda picture, lines: seen.append((picture, lines)))
    network, env = network_and_env()
    list(record(network, env, "abs_one", PlayConfig(steps=30, seed=2)))
    assert len(seen) == 30
    network, env = network_and_env()
    moves = islice(play(network, env, greedy=False, reward_clip="abs_one", seed=2, with_sensitivity=True), 1, 31)
    for (picture, lines), move in zip(seen, moves, strict=True):
        frame = np.asarray(move.timestep.observation)[0, -1].repeat(2, axis=0).repeat(2, axis=1)
        assert (picture[..., 0] == frame).all()
        action = env.spec.action_meanings[int(move.action[0])]
        assert action in ("noop", "fire", "right", "left", "rightfire", "leftfire")
        ignored = "" if move.next_timestep.valid[0] else " (ignored)"
        assert lines[0] == f"action {action}{ignored}   value {float(move.output.values[0]):.2f}"
        assert lines[1].startswith(f"reward {float(move.next_timestep.reward[0]):+.2f}   return ")
        assert move.sensitivity_norm is not None
        assert lines[2] == f"sensitivity {move.sensitivity_norm:.1f}"


class Lives(CountingEnv):
    """Every second episode's end is only a lost life."""

    def step(self, actions: np.ndarray) -> Timestep:
        before = self._episode.copy()
        timestep = super().step(actions)
        return timestep._replace(life_lost=(timestep.terminated | timestep.truncated) & (before % 2 == 0))

    def render(self, index: int) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)


def test_the_return_of_a_caption_is_the_games_and_goes_on_over_lost_lives(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    monkeypatch.setattr("r2ac.commands.play.captioned", lambda picture, lines: seen.append(lines[1]))
    env = Lives(1, 1)
    network = build_seeded_network(NetworkConfig(encoder="none", num_units=4), RuleConfig(), env.spec, 1)
    list(record(network, env, "none", PlayConfig(steps=60, seed=2)))
    total, games = 0.0, 0
    for number, (_, episode, step, terminated, truncated) in enumerate(env.ledger):
        total += EPISODE * episode + step
        assert number == 0 or seen[number - 1].endswith(f"return {total:.2f}")
        if (terminated or truncated) and episode % 2:
            total, games = 0.0, games + 1
    assert games >= 2


@pytest.mark.slow
@pytest.mark.parametrize("core", [["rule=segment"], ["rule=tbptt"], ["network.core=feedforward"]])
def test_a_checkpoint_of_any_rule_is_recorded(core: list[str], tmp_path: Path):
    assert train.main(["env=atari/pong", *TOY, *SMALL, *core, f"run_dir={tmp_path}/run"]) == 0
    assert main([f"checkpoint={tmp_path}/run", "policy=greedy", "steps=5", f"output={tmp_path}/a.gif"]) == 0
    assert (tmp_path / "a.gif").stat().st_size > 1000


@pytest.mark.seconds
@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs imageio-ffmpeg")
def test_an_mp4_has_the_size_and_number_of_the_frames(tmp_path: Path):
    import imageio_ffmpeg

    assert main(["env=atari/pong", "policy=random", "steps=7", f"output={tmp_path}/a.mp4"]) == 0
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))[0] == 7


def test_an_mp4_gets_even_sizes_and_every_frame_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stands for imageio-ffmpeg, to see what it is sent."""
    sent: list[np.ndarray] = []

    def write_frames(path: str, size: tuple[int, int], *, fps: float, macro_block_size: int):
        assert (path, size, fps, macro_block_size) == (str(tmp_path / "a.mp4"), (4, 6), 15.0, 2)
        while True:
            sent.append((yield))

    package = ModuleType("imageio_ffmpeg")
    package.write_frames = write_frames  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", package)
    pictures = [np.full((7, 5, 3), shade, np.uint8) for shade in (10, 20, 30)]
    video.write_video((Image.fromarray(picture) for picture in pictures), tmp_path / "a.mp4", 15.0)
    assert [(frame.shape, int(frame[0, 0, 0])) for frame in sent] == [((6, 4, 3), shade) for shade in (10, 20, 30)]


@pytest.mark.parametrize(("length", "expected"), [(1, [0]), (3, [0, 1, 2]), (16, list(range(16)))])
def test_a_short_video_is_on_the_sheet_whole(length: int, expected: list[int]):
    assert video.evenly_spaced(16, length) == expected


def test_a_long_video_is_on_the_sheet_from_its_first_frame_to_its_last():
    chosen = video.evenly_spaced(16, 300)
    assert (len(chosen), chosen[0], chosen[-1]) == (16, 0, 299)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=3"], "nothing to play: give checkpoint=RUN, or env=SUITE/NAME with policy=random"),
        (["checkpoint=/nowhere"], "no checkpoint at /nowhere"),
        (["checkpoint=/nowhere", "env=atari/pong"], "a checkpoint is played in its own environment"),
        (["env=atari/pong", "policy=random", "env.mood=1"], "env.mood"),
        (["env=tmaze", "policy=random"], "has no picture: there is nothing to record"),
        (["env=atari/pong", "policy=random", "output=x.avi"], "expected a file that ends in .gif or .mp4"),
        (["env=atari/pong", "policy=random", "output=nowhere/x.gif"], "expected a file in a folder that exists"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_mp4_without_its_package_is_refused_before_anything_is_played(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("r2ac.commands.video.importlib.util.find_spec", lambda name: None)
    assert main(["env=atari/nonesuch", "policy=random", "output=a.mp4"]) == 2
    assert (
        "mp4 needs the package imageio-ffmpeg (pip install imageio-ffmpeg); or ask for a .gif"
        in capsys.readouterr().err
    )
