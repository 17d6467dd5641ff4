"""The umask decides who may read a run, and it decides it for every file alike."""

import os
import stat
from pathlib import Path

import pytest

from r2ac.commands import train


@pytest.mark.seconds
@pytest.mark.parametrize("umask", [0o027, 0o002])
def test_every_file_of_a_run_has_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int):
    sizes = ["fleet.num_actors=1", "actors.num_envs=4", "actors.unroll=4", "total_steps=32"]
    before = os.umask(umask)
    try:
        words = ["experiment=tmaze", "env.corridor=3", "fleet=local", "logging=quiet", "logging.tensorboard=true"]
        assert train.main([*words, *sizes, f"run_dir={tmp_path}/run"]) == 0
    finally:
        os.umask(before)
    paths = list((tmp_path / "run").rglob("*"))
    assert {".safetensors", ".json", ".jsonl", ".yaml"} <= {path.suffix for path in paths}
    assert any(path.name.startswith("events") for path in paths)
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path
