"""What is imported is declared, what is declared is locked, and what is locked is hashed."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
BROUGHT = {"deepmind_lab": "a wheel of one's own", "procgen": "requirements-procgen.lock"}
"""Modules of distributions that pyproject.toml cannot ask for, and where they come from."""
TOOLS = ["r2ac/monitoring/dashboard.py"]
"""What only a developer of this project runs: it may import what the ``dev`` extra brings."""


def declared(*, dev: bool) -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [
        *PROJECT["project"]["dependencies"],
        *(line for name in extras if dev or name != "dev" for line in extras[name]),
    ]
    return [Requirement(line) for line in lines]


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def imported(files: list[Path]) -> dict[str, set[str]]:
    """Top-level modules that are neither ours nor Python's, and the files that import them."""
    ours = {*PACKAGES, "benchmarks", "pages", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    found: dict[str, set[str]] = defaultdict(set)
    for path in files:
        for module in _modules(ast.parse(path.read_text())):
            name = module.partition(".")[0]
            if name not in ours and name not in sys.stdlib_module_names:
                found[name].add(str(path.relative_to(ROOT)))
    return found


def _modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


OF_PEERS = ROOT / "benchmarks" / "peers" / "programs"
"""Run in environments of their own."""


@pytest.mark.seconds
@pytest.mark.parametrize("dev", [False, True], ids=["programs", "tests and tools"])
def test_every_import_is_of_a_distribution_that_pyproject_asks_for(dev: bool):
    tools = [ROOT / tool for tool in TOOLS]
    ours = [path for path in sources("tests", "benchmarks", "pages") if OF_PEERS not in path.parents]
    files = [*ours, *tools] if dev else sorted({*sources(*PACKAGES)} - {*tools})
    asked = {canonicalize_name(requirement.name) for requirement in declared(dev=dev)}
    distributions = packages_distributions()
    undeclared = {
        module: sorted(importers)
        for module, importers in imported(files).items()
        if module not in BROUGHT
        and not asked & {canonicalize_name(name) for name in distributions.get(module, [module])}
    }
    assert not undeclared, "name their distributions in pyproject.toml"


LOCKED = re.compile(
    r"^([a-z0-9][\w.-]*)==(\S+)((?: ;[^\\\n]*)?)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", re.MULTILINE
)


def locked(name: str) -> dict[str, tuple[str, str]]:
    """Version and hashes of every distribution in a lock file."""
    text = (ROOT / f"requirements{name}.lock").read_text()
    found = {match[1]: (match[2], match[4]) for match in LOCKED.finditer(text)}
    assert len(found) == sum(line[:1].isalnum() for line in text.splitlines()), "a line that is no locked distribution"
    return found


@pytest.mark.parametrize("name", ["", "-dev", "-build", "-procgen"])
def test_everything_that_is_locked_has_hashes_and_names_no_place(name: str):
    assert all(hashes for _, hashes in locked(name).values())
    assert "torch" not in locked(name)
    assert "://" not in (ROOT / f"requirements{name}.lock").read_text()


def test_what_is_locked_is_what_pyproject_allows():
    """If this fails: make lock."""
    pinned = locked("") | locked("-dev") | locked("-torch")
    for requirement in declared(dev=True):
        version, _ = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(Version(version)), f"{requirement} is locked at {version}"
