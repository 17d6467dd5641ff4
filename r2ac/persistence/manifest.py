"""A checkpoint's manifest: the one file that says what the others hold, believed only after it was checked from end to end."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from conf.one_line import one_line

FORMAT = 1
MANIFEST = "manifest.json"
MAX_BYTES = 256 * 1024**2
_NAME = re.compile(r"learner|actor_[0-9]{1,9}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointError(RuntimeError):
    """A checkpoint that is not there, not whole, or not of this program. One line for the user."""


class DamagedCheckpoint(CheckpointError):
    """One that is not as it was written any more. Nothing but an older one can take its place."""


def write_manifest(path: Path, manifest: dict[str, Any]) -> Path:
    """Writes it into a checkpoint's folder, with its own checksum."""
    file = path / MANIFEST
    file.write_text(json.dumps({"sha256": _checksum(manifest), "manifest": manifest}, indent=1))
    return file


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint's folder. Nothing that it names lies outside of that folder.

    Raises:
        DamagedCheckpoint: if it was altered.
        CheckpointError: if it is missing, cannot be read now, is of another format, or lacks something.
    """
    file = path / MANIFEST
    try:
        if not file.exists():
            raise CheckpointError(f"no checkpoint at {path}: {MANIFEST} is missing")
        require_own_file(path, MANIFEST)
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        document = json.loads(file.read_text())
        manifest, checksum = document["manifest"], document["sha256"]
        form = manifest.get("format")
        unaltered = _checksum(manifest) == checksum
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {MANIFEST}: {_sentence(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(
            f"checkpoint {path} is damaged: {MANIFEST} cannot be read ({_sentence(error)}); use an older one"
        ) from None
    if form != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {one_line(form, 20)}, this version of the program reads format {FORMAT}"
        )
    if not unaltered:
        raise DamagedCheckpoint(f"checkpoint {path} is damaged: {MANIFEST} is not what was written; use an older one")
    for entry, is_right in _ENTRIES.items():
        if entry not in manifest or not is_right(manifest[entry]):
            raise CheckpointError(f"checkpoint {path} is not of this program: {MANIFEST} has no valid {entry!r}")
    if {f"{name}.safetensors" for name in manifest["structures"]} != manifest["files"].keys():
        raise CheckpointError(f"checkpoint {path} is not of this program: {MANIFEST} has other files than states")
    if any(offset + math.prod(shape) > manifest["num_parameters"] for _, shape, offset in manifest["layout"]):
        raise CheckpointError(f"checkpoint {path} is not of this program: {MANIFEST} has no valid 'layout'")
    return manifest


def require_own_file(path: Path, name: str) -> Path:
    """A file of a checkpoint.

    Raises:
        DamagedCheckpoint: if it is missing.
        CheckpointError: if it leads elsewhere.
    """
    file = path / name
    if file.is_symlink():
        raise CheckpointError(
            f"checkpoint {path} cannot be used: {name} is a link, and may lead anywhere; copy the file"
        )
    if not file.is_file():
        raise DamagedCheckpoint(f"checkpoint {path} is incomplete: {name} is missing; use an older one")
    return file


def is_count(value: Any) -> bool:
    """Whether it is a number of things, as a file may hold one."""
    return type(value) is int and 0 <= value < 2**63


def _number_or_none(value: Any) -> bool:
    return value is None or type(value) is float or (type(value) is int and abs(value) < 2**63)


def _slots(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(slot, list)
        and len(slot) == 3
        and isinstance(slot[0], str)
        and isinstance(slot[1], list)
        and len(slot[1]) <= 8
        and all(map(is_count, slot[1]))
        and is_count(slot[2])
        for slot in value
    )


def _incarnations(value: Any) -> bool:
    return isinstance(value, dict) and all(re.fullmatch("[0-9]{1,9}", key) and is_count(n) for key, n in value.items())


def _structures(value: Any) -> bool:
    named = isinstance(value, dict) and "learner" in value and all(map(_NAME.fullmatch, value))
    return named and all(isinstance(tree, dict) for tree in value.values())


def _files(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(sha, str) and _SHA256.fullmatch(sha) for sha in value.values())


_ENTRIES = {
    "layout": _slots,
    "num_parameters": is_count,
    "score": _number_or_none,
    "agent_steps": is_count,
    "version": is_count,
    "config": lambda value: isinstance(value, str),
    "incarnations": _incarnations,
    "progress": lambda value: isinstance(value, dict),
    "structures": _structures,
    "files": _files,
}


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sentence(error: Exception) -> str:
    return one_line(error, 200) or type(error).__name__
