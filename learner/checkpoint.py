"""Checkpoints: one folder each, written whole or not at all, checked when read, and never able to run code.

    RUN/checkpoints/000001234567/        agent steps
        manifest.json                    format, network layout, configuration, score, counters, SHA-256 of every file
        learner.safetensors              weights, optimizer
        actor_0.safetensors ...          actors whose environment can be saved

Tensors are in safetensors files; everything that is not a tensor is JSON in the manifest, with ``{"tensor": name}`` where one belongs.
A checkpoint is written under a temporary name and renamed when all of it is on the disk.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from actors.fleet import FleetState
from conf.knobs import ConfigError
from conf.load import from_yaml
from conf.schema import TrainConfig
from learner.writing import writing
from rtrl_core.layout import ParameterLayout, ParameterSlot

FORMAT = 1
MANIFEST = "manifest.json"
FOLDER = "checkpoints"


class CheckpointError(RuntimeError):
    """A checkpoint that is not there, not whole, or not of this program. One line for the user."""


@dataclass(slots=True)
class Checkpoint:
    """All of a run at one moment."""

    config_yaml: str
    layout: ParameterLayout
    score: float | None
    """Mean return of the last games of training at that moment: what "best" means."""
    learner: dict[str, Any]
    """``Learner.get_state``."""
    fleet: FleetState
    progress: dict[str, Any]
    """Whatever the training loop wants back: totals, recent returns, identifiers of loggers."""

    @property
    def config(self) -> TrainConfig:
        try:
            return from_yaml(self.config_yaml)
        except ConfigError as error:
            raise CheckpointError(
                f"the checkpoint's configuration is of another version of this program: {error}"
            ) from None

    @property
    def vector(self) -> torch.Tensor:
        """Flat weights."""
        return self.learner["weights"]

    @property
    def version(self) -> int:
        return self.learner["counters"]["version"]

    @property
    def agent_steps(self) -> int:
        return self.learner["counters"]["agent_steps"]


def save(run_dir: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Writes one, then deletes what is neither among the ``keep`` newest nor the best.

    Raises:
        CannotWrite: if the disk is full or not writable; older checkpoints are untouched then.
    """
    target = run_dir / FOLDER / f"{checkpoint.agent_steps:012d}"
    with writing(target):
        _write(target, checkpoint)
    _prune(target.parent, keep)
    return target


def _write(target: Path, checkpoint: Checkpoint) -> None:
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    temporary, replaced = folder / f".{target.name}.tmp", folder / f".{target.name}.old.tmp"
    temporary.mkdir()
    try:
        trees = {"learner": checkpoint.learner}
        trees |= {f"actor_{actor_id}": state for actor_id, state in checkpoint.fleet.actors.items()}
        structures, files = {}, {}
        for name, tree in trees.items():
            tensors: dict[str, torch.Tensor] = {}
            structures[name] = _separate(tree, name, tensors)
            path = temporary / f"{name}.safetensors"
            path.touch()
            mode = path.stat().st_mode
            save_file(tensors, path)
            path.chmod(
                mode
            )  # it is the library's choice otherwise, which lets nobody else read what the manifest beside it names
            _sync(path)
            files[path.name] = _checksum(path)
        manifest = {
            "format": FORMAT,
            "layout": [[slot.name, list(slot.shape), slot.offset] for slot in checkpoint.layout.slots],
            "num_parameters": checkpoint.layout.size,
            "score": checkpoint.score,
            "agent_steps": checkpoint.agent_steps,
            "version": checkpoint.version,
            "config": checkpoint.config_yaml,
            "incarnations": checkpoint.fleet.incarnations,
            "progress": checkpoint.progress,
            "structures": structures,
            "files": files,
        }
        (temporary / MANIFEST).write_text(
            json.dumps({"sha256": _manifest_checksum(manifest), "manifest": manifest}, indent=1)
        )
        _sync(temporary / MANIFEST)
        if target.exists():
            target.rename(replaced)
        temporary.rename(target)
        _sync(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load(path: Path) -> Checkpoint:
    """Reads and verifies one.

    Raises:
        CheckpointError: if it is missing, truncated, altered, or of another format.
    """
    manifest = _read_manifest(path)
    states: dict[str, Any] = {}
    for name, structure in manifest["structures"].items():
        file = path / f"{name}.safetensors"
        expected = manifest["files"].get(file.name)
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is incomplete: {file.name} is missing; use an older one")
        if _checksum(file) != expected:
            raise CheckpointError(
                f"checkpoint {path} is damaged: {file.name} is not what was written; use an older one"
            )
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"checkpoint {path} cannot be read: {file.name}: {error}") from None
        states[name] = _join(structure, tensors)
    return Checkpoint(
        config_yaml=manifest["config"],
        layout=ParameterLayout(
            tuple(ParameterSlot(name, tuple(shape), offset) for name, shape, offset in manifest["layout"]),
            manifest["num_parameters"],
        ),
        score=manifest["score"],
        learner=states.pop("learner"),
        fleet=FleetState(
            incarnations={int(actor_id): n for actor_id, n in manifest["incarnations"].items()},
            actors={int(name.removeprefix("actor_")): state for name, state in states.items()},
        ),
        progress=manifest["progress"],
    )


def find(path: Path, which: str = "last") -> Path:
    """The checkpoint that a user means: a checkpoint's own folder, or the ``last`` or ``best`` one of a run folder.

    Raises:
        CheckpointError: if there is none.
    """
    if (path / MANIFEST).is_file():
        return path
    found = available(path)
    if not found:
        raise CheckpointError(
            f"no checkpoint at {path}: expected a run folder with {FOLDER}/, or one checkpoint's folder"
        )
    if which == "best":
        scores = {candidate: score for candidate in found if (score := _score(candidate)) is not None}
        if scores:
            return max(scores, key=lambda candidate: (scores[candidate], candidate.name))
    return found[-1]


def available(run_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = run_dir / FOLDER
    return sorted(entry for entry in folder.glob("[0-9]*") if (entry / MANIFEST).is_file()) if folder.is_dir() else []


def _prune(folder: Path, keep: int) -> None:
    found = available(folder.parent)
    scores = {path: score for path in found if (score := _score(path)) is not None}
    kept = set(found[-keep:]) | ({max(scores, key=lambda path: (scores[path], path.name))} if scores else set())
    for path in found:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _score(path: Path) -> float | None:
    try:
        return _read_manifest(path)["score"]
    except CheckpointError:
        return None


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        document = json.loads((path / MANIFEST).read_text())
        manifest, checksum = document["manifest"], document["sha256"]
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}: {MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged: {MANIFEST} cannot be read ({error}); use an older one"
        ) from None
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {manifest.get('format')}, this version of the program reads format {FORMAT}"
        )
    if _manifest_checksum(manifest) != checksum:
        raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} is not what was written; use an older one")
    return manifest


def _separate(tree: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for everything but arrays, which are collected under the path that leads to them."""
    if isinstance(tree, dict):
        return {key: _separate(value, f"{name}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, np.ndarray):
        tensors[name] = torch.from_numpy(np.array(tree, order="C"))
        return {"array": name}
    if isinstance(tree, torch.Tensor):
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(tree, (list, tuple)):
        return [_separate(value, f"{name}/{index}", tensors) for index, value in enumerate(tree)]
    if isinstance(tree, np.generic):
        return tree.item()
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"{name}: a checkpoint holds arrays, numbers and strings, not {type(tree).__name__}")


def _join(structure: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(structure, dict):
        if structure.keys() == {"tensor"}:
            return tensors[structure["tensor"]]
        if structure.keys() == {"array"}:
            return tensors[structure["array"]].numpy()
        return {key: _join(value, tensors) for key, value in structure.items()}
    if isinstance(structure, list):
        return [_join(value, tensors) for value in structure]
    return structure


def _manifest_checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
