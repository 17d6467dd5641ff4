"""A time-out is told from an end of the task by numbers that the engine has rounded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dmlab_modules import both_modules
from opened_dmlab import Opened

from conf.env_schema import DMLab30Config, DMLabConfig
from envs.dmlab.actions import action_meanings
from envs.dmlab.engine import RUNNING, TRUNCATED, Engine, EngineOptions, out_of_time

LEVELS = {
    "rooms_select_nonmatching_object": 12,
    "rooms_watermaze": 60,
    "natlab_fixed_large_map": 90,
    "natlab_varying_map_regrowth": 120,
    "psychlab_visual_search": 150,
    "psychlab_sequential_comparison": 180,
    "language_select_located_object": 240,
}
"""A level for each time limit at which some frame skip once failed; which level has which limit does not matter."""


def frames_left(length_s: int, frame: int) -> float:
    """The engine's arithmetic: whole milliseconds of 960 a second, then seconds, then frames."""
    return (length_s - frame * 16 / (0.96 * 1000.0)) * 60


def test_the_engine_does_not_tell_whole_frames():
    assert frames_left(60, 3596) == 4.000000000000199


def test_only_the_last_step_before_a_time_limit_is_out_of_time():
    for length_s in range(1, 601):
        for frame_skip in range(1, 17):
            before_the_last = (60 * length_s - 1) // frame_skip * frame_skip
            assert out_of_time(frames_left(length_s, before_the_last), frame_skip), (length_s, frame_skip)
            if before_the_last:
                assert not out_of_time(frames_left(length_s, before_the_last - frame_skip), frame_skip)


@pytest.mark.parametrize("frame_skip", range(1, 17))
def test_an_engine_truncates_at_every_time_limit(standin: Callable[..., None], tmp_path: Path, frame_skip: int):
    for level, length_s in LEVELS.items():
        begin = (60 * length_s - 1) // frame_skip * frame_skip - 2 * frame_skip
        standin(seconds=LEVELS, begin_left=60 * length_s - begin)
        options = EngineOptions(
            f"contributed/dmlab30/{level}",
            settings={"width": "16", "height": "16"},
            width=16,
            height=16,
            renderer="software",
            frame_skip=frame_skip,
            instruction_length=0,
            cache=None,
        )
        memory = np.zeros((), options.memory_type)
        engine = Engine(options, memory, str(tmp_path))
        engine.reset()
        seen = []
        for _ in range(3):
            engine.step()
            seen.append(int(memory["status"]))
        assert seen == [RUNNING, RUNNING, TRUNCATED], (level, length_s)


@pytest.mark.seconds
@pytest.mark.parametrize("frame_skip", [4, 9])
def test_streams_of_every_time_limit_are_truncated(standin: Callable[..., None], opened: Opened, frame_skip: int):
    standin(seconds=LEVELS, begin_left=2 * frame_skip)
    config = DMLab30Config(levels=list(LEVELS), frame_skip=frame_skip, wait_for_reset=True, instruction=False)
    env = opened(config, streams=len(LEVELS))
    env.reset()
    first, second = (env.step(np.zeros(len(LEVELS), int)) for _ in range(2))
    assert not (first.truncated | first.terminated).any()
    assert second.truncated.all()
    assert not second.terminated.any()


@both_modules
def test_a_level_of_sixty_seconds_that_is_waited_out_is_truncated_after_nine_hundred_steps(
    module: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    name = "rooms_keys_doors_puzzle"
    monkeypatch.setenv("FAKE_LAB", f'{{"seconds": {{"{name}": 60}}}}')
    config = DMLabConfig(name=name, wait_for_reset=True, spare_engines=0)
    env = opened(config, streams=1)
    env.reset()
    turning = np.array([action_meanings("nine").index("look left")])
    steps = [env.step(turning) for _ in range(900)]
    assert steps[-1].truncated.all()
    assert not any((step.truncated | step.terminated).any() for step in steps[:-1])
    assert not steps[-1].terminated.any()
