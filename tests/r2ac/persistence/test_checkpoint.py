"""Checkpoints: whole or not at all, verified, and never able to run code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sound_state import learner_state, progress
from torch import nn

from actors.fleet import FleetState
from conf.load import load_train, to_yaml
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint, CheckpointError
from rtrl_core import ParameterLayout

LAYOUT = ParameterLayout.of(nn.ModuleDict({"encoder": nn.Linear(3, 4)}))


def make_checkpoint(steps: int = 100, score: float | None = None) -> Checkpoint:
    return Checkpoint(
        config_yaml=to_yaml(load_train(["experiment=tmaze"])),
        layout=LAYOUT,
        score=score,
        learner=learner_state(LAYOUT, steps=steps),
        fleet=FleetState(
            {0: 2, 1: 0},
            {0: {"cell": torch.ones(2, 3), "now": {"reward": np.ones(4, np.float32)}, "text": "x", "flag": True}},
        ),
        progress=progress(),
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path):
    saved = make_checkpoint(score=1.5)
    loaded = checkpoints.load(checkpoints.save(tmp_path, saved, keep=3))
    assert torch.equal(loaded.vector, saved.vector)
    assert (loaded.layout, loaded.score, loaded.progress) == (saved.layout, saved.score, saved.progress)
    assert (loaded.version, loaded.agent_steps) == (7, 100)
    assert loaded.fleet.incarnations == {0: 2, 1: 0}
    actor = loaded.fleet.actors[0]
    assert torch.equal(actor["cell"], torch.ones(2, 3))
    assert isinstance(actor["now"]["reward"], np.ndarray)
    assert (actor["text"], actor["flag"]) == ("x", True)
    assert loaded.config == load_train(["experiment=tmaze"])


def test_the_newest_and_the_best_are_kept(tmp_path: Path):
    for steps, score in ((100, 1.0), (200, 9.0), (300, 2.0), (400, 3.0), (500, None)):
        checkpoints.save(tmp_path, make_checkpoint(steps, score), keep=2)
    assert [int(path.name) for path in checkpoints.available(tmp_path)] == [200, 400, 500]
    assert int(checkpoints.find(tmp_path).name) == 500
    assert int(checkpoints.find(tmp_path, which="best").name) == 200


def test_a_failed_write_leaves_the_older_ones_and_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints.save(tmp_path, make_checkpoint(100), keep=2)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tmp_path, make_checkpoint(200), keep=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000100"]


@pytest.mark.parametrize("size", [0, 10, 200])
@pytest.mark.parametrize("name", ["learner.safetensors", "actor_0.safetensors", "manifest.json"])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, name: str, size: int):
    path = checkpoints.save(tmp_path, make_checkpoint(), keep=2)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: min(size, len(content) - 1)])
    with pytest.raises(CheckpointError, match=f"damaged.*{name}") as failure:
        checkpoints.load(path)
    assert "\n" not in str(failure.value)


def test_one_changed_bit_is_noticed(tmp_path: Path):
    path = checkpoints.save(tmp_path, make_checkpoint(), keep=2)
    content = bytearray((path / "learner.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "learner.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what was written"):
        checkpoints.load(path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["manifest"]["score"] = 99.0
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json is not what was written"):
        checkpoints.load(path)


def test_a_missing_file_and_another_format_are_named(tmp_path: Path):
    path = checkpoints.save(tmp_path, make_checkpoint(), keep=2)
    (path / "actor_0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"incomplete: actor_0\.safetensors is missing"):
        checkpoints.load(path)
    text = (path / "manifest.json").read_text().replace('"format": 1', '"format": 99')
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="has format 99, this version of the program reads format 1"):
        checkpoints.load(path)


def test_a_place_without_checkpoints_says_what_was_expected(tmp_path: Path):
    with pytest.raises(CheckpointError, match="expected a run folder"):
        checkpoints.find(tmp_path / "nowhere")


def test_only_arrays_numbers_and_words_can_be_saved(tmp_path: Path):
    bad = make_checkpoint()
    bad.fleet.actors[0]["function"] = print
    with pytest.raises(TypeError, match="actor_0/function"):
        checkpoints.save(tmp_path, bad, keep=2)
