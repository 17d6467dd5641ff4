"""Checkpoints: one folder each, written whole or not at all, checked when read, and never able to run code.

    RUN/checkpoints/000001234567/        agent steps
        manifest.json                    format, network layout, configuration, score, counters, SHA-256 of every file
        learner.safetensors              weights, optimizer
        actor_0.safetensors ...          actors whose environment can be saved

Tensors are in safetensors files; everything that is not a tensor is JSON in the manifest, with ``{"tensor": name}`` where one belongs.
A checkpoint is written under a temporary name and renamed when all of it is on the disk.
"""

import hashlib
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from actors.fleet import FleetState
from conf.data_yaml import read_yaml
from conf.knobs import ConfigError
from conf.schema import AlgorithmConfig, TrainConfig
from conf.stored import Stored, read_stored
from r2ac.persistence.manifest import (
    FORMAT,
    MANIFEST,
    CheckpointError,
    DamagedCheckpoint,
    read_manifest,
    require_own_file,
    write_manifest,
)
from r2ac.persistence.stored_run import first_unsound
from r2ac.persistence.writing import writing
from rtrl_core.layout import ParameterLayout, ParameterSlot

FOLDER = "checkpoints"


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
        """How it was trained, but for places: whoever wrote it leads this program nowhere."""
        return self._stored().config

    def trusted_config(self, words: Sequence[str]) -> TrainConfig:
        """The same with what the caller says again, ``env.OPTION=VALUE`` of places or ``env=MODULE:SUITE``. One line on the error
        stream says what was ignored.

        Raises:
            CheckpointError: if this program cannot use it.
        """
        stored = self._stored(words)
        if stored.ignored:
            print(stored.ignored, file=sys.stderr)
        return stored.config

    def _stored(self, words: Sequence[str] = ()) -> Stored:
        try:
            return read_stored(self.config_yaml, words)
        except ConfigError as error:
            raise CheckpointError(f"the checkpoint's configuration cannot be used: {error}") from None

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
        _sync(write_manifest(temporary, manifest))
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
        DamagedCheckpoint: if it is truncated, altered, or not all there.
        CheckpointError: if it is missing, cannot be read now, or is of another format.
    """
    manifest = read_manifest(path)
    states = {
        name: _read_state(path, f"{name}.safetensors", structure, manifest["files"])
        for name, structure in manifest["structures"].items()
    }
    learner = states.pop("learner")
    _require_sound(path, learner, manifest)
    return Checkpoint(
        config_yaml=manifest["config"],
        layout=ParameterLayout(
            tuple(ParameterSlot(name, tuple(shape), offset) for name, shape, offset in manifest["layout"]),
            manifest["num_parameters"],
        ),
        score=None if manifest["score"] is None else float(manifest["score"]),
        learner=learner,
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
        score = read_manifest(path)["score"]
    except CheckpointError:
        return None
    return score if score is not None and math.isfinite(score) else None


def _read_state(path: Path, name: str, structure: Any, checksums: dict[str, str]) -> dict[str, Any]:
    """One file's tensors, in the tree that the manifest describes."""
    try:
        file = require_own_file(path, name)
        if _checksum(file) != checksums[name]:
            raise DamagedCheckpoint(f"checkpoint {path} is damaged: {name} is not what was written; use an older one")
        state = _join(structure, load_file(file))
        if not isinstance(state, dict):
            raise TypeError("expected a state, got a single tensor")
        return state
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read: {name}: {reason}") from None


def _require_sound(path: Path, learner: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Raises ``CheckpointError`` unless these are the weights of the manifest's layout, and the state of a run."""
    size = manifest["num_parameters"]
    weights = learner.get("weights")
    if not isinstance(weights, torch.Tensor) or weights.shape != (size,) or weights.dtype != torch.float32:
        raise CheckpointError(f"checkpoint {path} is not of this program: it has no float32 weights of size {size:,}")
    if (entry := first_unsound(learner, manifest["progress"], size, _algorithm(manifest["config"]))) is not None:
        raise CheckpointError(f"checkpoint {path} is not of this program: it has no valid {entry!r}; use another one")


def _algorithm(config_yaml: str) -> Any:
    """By name, and never looked for: configurations from before there were several do not say it."""
    try:
        return read_yaml(config_yaml, "the configuration")["algorithm"]["name"]
    except (ConfigError, KeyError, TypeError):
        return AlgorithmConfig().name


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
