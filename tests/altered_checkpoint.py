"""A checkpoint as somebody else could hand it on: altered, and signed again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def alter(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Lets ``change`` work on the manifest; a value that it returns takes its place."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())["manifest"]
    changed = change(manifest)
    manifest = manifest if changed is None else changed
    checksum = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": checksum, "manifest": manifest}))
