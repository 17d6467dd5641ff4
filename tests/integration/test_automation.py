"""What runs by itself, on a push or a commit, calls targets of the Makefile and tools of the environment that exist."""

import ast
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from job["steps"]


def commands(workflow: Path) -> list[list[str]]:
    return [shlex.split(line) for step in steps(workflow) for line in step.get("run", "").splitlines()]


def hooks() -> list[dict[str, Any]]:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "a hook from elsewhere is another version than the environment's"
    return repository["hooks"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_target_that_a_workflow_makes_exists(workflow: Path) -> None:
    made = {word for program, *words in commands(workflow) if program == "make" for word in words if "=" not in word}
    assert made
    assert made <= TARGETS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_job_ends_and_every_action_has_a_major_version(workflow: Path) -> None:
    assert all("timeout-minutes" in job for job in yaml.safe_load(workflow.read_text())["jobs"].values())
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", action)] == []


def test_the_tests_run_on_every_python_that_make_accepts() -> None:
    (workflow,) = [path for path in WORKFLOWS if path.name == "test.yml"]
    tested = yaml.safe_load(workflow.read_text())["jobs"]["test"]["strategy"]["matrix"]["python"]
    lowest, beyond = (tuple(map(int, found)) for found in _accepted((ROOT / "Makefile").read_text()))
    assert [tuple(map(int, version.split("."))) for version in tested] == [
        (3, minor) for minor in range(lowest[1], beyond[1])
    ]


def _accepted(makefile: str) -> tuple[tuple[str, str], tuple[str, str]]:
    found = re.search(r"\((\d+), (\d+)\) <= sys.version_info < \((\d+), (\d+)\)", makefile)
    assert found is not None
    return (found[1], found[2]), (found[3], found[4])


def test_every_hook_is_a_tool_of_the_environment() -> None:
    distributions = " ".join(PROJECT["project"]["optional-dependencies"]["dev"])
    tools = [Path(hook["entry"].split()[0]) for hook in hooks()]
    assert {tool.parent for tool in tools} == {Path(".venv/bin")}
    assert {tool.name for tool in tools} == {"ruff", "lint-imports", "basedpyright"}
    assert all(name in distributions for name in ("ruff", "import-linter", "basedpyright"))
    assert all(shutil.which(tool.name, path=str(Path(sys.executable).parent)) for tool in tools)


def test_hooks_run_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lint = makefile[makefile.index("\nlint:") : makefile.index("\ntest:")]
    for hook in hooks():
        words = hook["entry"].removeprefix(".venv/bin/").split(" --")[0]
        assert f"$(BIN)/{words}" in lint


def test_the_fast_tests_reach_every_package() -> None:
    left_out = ("seconds", "slow", "soak", "gpu", "docker")
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        trees = [ast.parse(path.read_text()) for path in (ROOT / "tests" / package).rglob("test_*.py")]
        functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
        tests = [node for node in functions if node.name.startswith("test_")]
        marks = {node.name: " ".join(map(ast.unparse, node.decorator_list)) for node in tests}
        fast = [name for name, marked in marks.items() if not any(f"mark.{word}" in marked for word in left_out)]
        assert len(fast) > len(tests) / 2, package
