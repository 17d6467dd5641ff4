"""A manifest is believed only whole: whatever is wrong in it is one line, and nothing outside of the checkpoint's folder is read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from altered_checkpoint import alter
from anything import JSON, cases
from empty_statistics import no_statistics
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from sound_state import learner_state, progress
from torch import nn

from actors.fleet import FleetState
from conf.load import load_train, to_yaml
from conf.schema import LearnerConfig
from learner.learner import GradientPlan
from r2ac.monitoring.metrics import check_row
from r2ac.monitoring.tally import Tally
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint, CheckpointError
from r2ac.persistence.manifest import read_manifest
from rtrl_core import ContributionHeader, GradientContribution, ParameterLayout

LAYOUT = ParameterLayout.of(nn.ModuleDict({"encoder": nn.Linear(3, 4)}))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = Checkpoint(
        config_yaml=to_yaml(load_train(["experiment=tmaze"])),
        layout=LAYOUT,
        score=1.5,
        learner=learner_state(LAYOUT),
        fleet=FleetState({0: 2}, {0: {"cell": torch.ones(2, 3)}}),
        progress=progress("one", "two"),
    )
    return checkpoints.save(tmp_path_factory.mktemp("run"), checkpoint, keep=2)


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    folder = tmp_path / written.name
    folder.mkdir()
    for file in written.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as failure:
        checkpoints.load(path)
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "actor_0/../../outside", "actor_x", "", "Learner"])
def test_a_name_that_is_not_ours_is_refused(copy: Path, name: str):
    save_file({}, copy.parent / "outside.safetensors")

    def change(manifest: dict[str, Any]) -> None:
        manifest["structures"][name] = {}
        manifest["files"][f"{name}.safetensors"] = "0" * 64

    alter(copy, change)
    assert "has no valid 'structures'" in refused(copy)


def test_a_link_is_not_followed(copy: Path):
    for name in ("actor_0.safetensors", "manifest.json"):
        (copy / name).rename(copy.parent / name)
        (copy / name).symlink_to(copy.parent / name)
        assert f"{name} is a link" in refused(copy)


def test_a_pipe_is_not_waited_for(copy: Path):
    for name in ("actor_0.safetensors", "manifest.json"):
        (copy / name).unlink()
        os.mkfifo(copy / name)
        assert f"incomplete: {name} is missing" in refused(copy)


@pytest.mark.parametrize(
    "entry", ["layout", "num_parameters", "score", "config", "incarnations", "progress", "structures", "files"]
)
@pytest.mark.parametrize("value", ["absent", "text", -1, True, [[]], {"a": "b"}])
def test_an_entry_that_is_missing_or_of_another_kind_is_named(copy: Path, entry: str, value: Any):
    if (entry, value) in (("config", "text"), ("progress", {"a": "b"}), ("score", -1)):
        pytest.skip("is of its kind")

    def change(manifest: dict[str, Any]) -> None:
        manifest[entry] = value
        if value == "absent":
            del manifest[entry]

    alter(copy, change)
    assert f"has no valid '{entry}'" in refused(copy)


def test_states_and_files_must_be_the_same(copy: Path):
    alter(copy, lambda manifest: manifest["files"].pop("actor_0.safetensors") and None)
    assert "has other files than states" in refused(copy)


def test_a_layout_beyond_its_own_size_is_refused(copy: Path):
    alter(copy, lambda manifest: manifest["layout"][0].__setitem__(1, [2**40, 2**40]))
    assert "has no valid 'layout'" in refused(copy)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ({}, "it has no float32 weights"),
        ({"weights": [1.0], "counters": {}}, "it has no float32 weights"),
        ({"weights": {"tensor": "learner/weights"}}, "has no valid 'learner/counters'"),
        ({"weights": {"tensor": "elsewhere"}}, "'elsewhere'"),
        ({"weights": {"tensor": ["learner"]}}, "cannot be read: learner.safetensors"),
        ([], "has no valid 'structures'"),
        ({"tensor": "learner/weights"}, "expected a state, got a single tensor"),
    ],
)
def test_a_learner_without_weights_or_counters_is_refused(copy: Path, learner: Any, message: str):
    alter(copy, lambda manifest: manifest["structures"].update(learner=learner))
    assert message in refused(copy)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("sum", {"tensor": "learner/optimizer/step"}),
        ("segments", -1),
        ("segments", "3"),
        ("optimizer", None),
        ("optimizer", {"step": 3}),
        ("optimizer/exp_avg", {"tensor": "learner/optimizer/step"}),
        ("optimizer/exp_avg", [0.0]),
        ("optimizer/step", {"tensor": "learner/weights"}),
        ("counters", {"version": "7", "agent_steps": 100}),
        ("counters/version", "7"),
        ("counters/updates", 1.5),
        ("counters/wire_bytes", 2**63),
        ("seen", {"x": [1, 2]}),
        ("seen", {"0": [1]}),
        ("seen", {"0": [1, None]}),
        ("oldest_version", True),
    ],
)
def test_a_learner_of_another_kind_is_refused_by_the_name_of_the_entry(copy: Path, entry: str, value: Any):
    alter(copy, lambda manifest: put(manifest["structures"]["learner"], entry, value))
    assert f"has no valid 'learner/{entry.partition('/')[0]}'" in refused(copy)


@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("tally", None, "tally"),
        ("tally/episodes", "many", "tally"),
        ("tally/recent", [1.0, "2"], "tally"),
        ("tally/recent_by_level", {"one": [1.0]}, "tally"),
        ("tally/level_steps", [1], "tally"),
        ("tally/elapsed_s", -1.0, "tally"),
        ("tally/elapsed_s", 1e300, "tally"),
        ("tally/env_counters", {"x": None}, "tally"),
        ("restarts", {"actor": 1}, "restarts/learner"),
        ("restarts/actor", "1", "restarts/actor"),
        ("sinks", [], "sinks"),
        ("sinks/WandbSink", "x", "sinks"),
        ("sinks/WandbSink/run_id", "../../outside", "sinks"),
    ],
)
def test_progress_of_another_kind_is_refused_by_the_name_of_the_entry(copy: Path, entry: str, value: Any, named: str):
    alter(copy, lambda manifest: put(manifest["progress"], entry, value))
    assert f"has no valid 'progress/{named}'" in refused(copy)


def test_what_earlier_versions_did_not_write_may_be_missing(copy: Path):
    def as_earlier(manifest: dict[str, Any]) -> None:
        del manifest["progress"]["tally"]["levels"], manifest["progress"]["tally"]["streams_reset"]
        manifest["progress"]["sinks"] = {}

    alter(copy, as_earlier)
    assert go_on(copy)["episodes"] == 0


def test_weights_of_another_size_are_refused(copy: Path):
    alter(copy, lambda manifest: manifest.update(num_parameters=LAYOUT.size + 16))
    assert f"no float32 weights of size {LAYOUT.size + 16}" in refused(copy)


def test_a_configuration_that_cannot_be_used_is_one_line(copy: Path):
    alter(copy, lambda manifest: manifest.update(config="- a\n- b"))
    loaded = checkpoints.load(copy)
    with pytest.raises(
        CheckpointError, match=r"^the checkpoint's configuration cannot be used: .*env.suite is missing$"
    ):
        _ = loaded.config


def test_a_file_beyond_all_bounds_is_not_read(copy: Path):
    with (copy / "manifest.json").open("r+b") as file:
        file.truncate(2**40)  # takes no space on the disk
    assert "it has more than" in refused(copy)


def put(tree: Any, way: str, value: Any) -> None:
    *to, last = way.split("/")
    for key in to:
        tree = tree[key]
    tree[last] = value


def go_on(path: Path) -> dict[str, Any]:
    """As a run does that begins at a checkpoint: the first row of its log, which any of the sinks must be able to take."""
    loaded = checkpoints.load(path)
    optimizer = "rmsprop" if "square_avg" in loaded.learner["optimizer"] else "adam"
    learner = GradientPlan(LearnerConfig(optimizer=optimizer), loaded.layout, 1, 1000).resume(loaded.learner)
    header = ContributionHeader(0, 2**62, 0, learner.counters.version, num_steps=8, num_segments=4, num_frames=8)
    gradient = torch.ones(loaded.layout.size)
    assert learner.add(GradientContribution(header, loaded.layout.fingerprint, gradient, no_statistics())).update
    tally = Tally(("one", "two"), 1000)
    tally.set_state(loaded.progress["tally"], learner.counters)
    row = tally.row({f"{name}_restarts": count + 1 for name, count in loaded.progress["restarts"].items()})
    check_row(row)
    json.dumps(row)
    return row


def complaint(read: Callable[[], object]) -> str:
    """What is said of what cannot be read; empty if it can."""
    try:
        read()
    except CheckpointError as error:
        return str(error)
    return ""


def paths(tree: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [so_far, *(path for key, value in inside for path in paths(value, (*so_far, key)))]


@pytest.mark.seconds
@cases(200)
@given(data=st.data())
def test_anything_in_a_manifest_is_read_or_refused_in_one_line(written: Path, data: st.DataObject):
    kept = (written / "manifest.json").read_text()
    whole = {"manifest": json.loads(kept)["manifest"]}

    def change(manifest: dict[str, Any]) -> Any:
        for _ in range(data.draw(st.integers(1, 2))):
            target: Any = whole
            *way, last = data.draw(st.sampled_from([path for path in paths(whole) if path]))
            for key in way:
                target = target[key]
            if data.draw(st.booleans()):
                target[last] = data.draw(JSON)
            elif isinstance(target, dict) and way:
                del target[last]
        return whole["manifest"]

    def read() -> None:
        go_on(written)
        loaded = checkpoints.load(written)
        assert loaded.vector.shape == (loaded.layout.size,)
        assert isinstance(loaded.agent_steps, int)
        _ = loaded.config

    try:
        alter(written, change)
        assert complaint(read).isprintable()
    finally:
        (written / "manifest.json").write_text(kept)


@pytest.mark.seconds
@cases(200)
@given(data=st.data())
def test_any_bytes_as_a_manifest_are_refused_in_one_line(written: Path, data: st.DataObject):
    kept = (written / "manifest.json").read_bytes()
    where, length = data.draw(st.integers(0, len(kept))), data.draw(st.integers(0, 40))
    changed = kept[:where] + data.draw(st.binary(max_size=20)) + kept[where + length :]
    (written / "manifest.json").write_bytes(changed)
    try:
        assert complaint(lambda: read_manifest(written)).isprintable()
    finally:
        (written / "manifest.json").write_bytes(kept)
