"""The messages that docs/troubleshooting.md explains are the ones that the program says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("actors", "conf", "envs", "learner", "r2ac", "rtrl_core")
PAGE = ROOT / "docs" / "troubleshooting.md"


def texts() -> Iterator[str]:
    """Every piece of text in the program; what is filled in separates pieces."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def explained() -> list[str]:
    """Messages in the first column of the tables."""
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def test_every_message_that_is_explained_exists() -> None:
    said = "\n".join(texts())
    missing = [
        piece
        for message in explained()
        for piece in re.split(r"…|: NAME", message)
        if len(piece.strip(" ,:")) > 3 and piece.strip(" ,:") not in said and message != "ray start"
    ]
    assert len(explained()) > 40
    assert missing == []
