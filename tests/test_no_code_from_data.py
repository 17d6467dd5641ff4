"""What is read can never run: nothing in the program unpickles, evaluates, or gives a text to a shell."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("actors", "conf", "envs", "learner", "r2ac", "rtrl_core")
FORBIDDEN = {
    *("eval", "exec", "os.system", "os.popen", "torch.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "numpy.load", "np.load", "joblib.load", "marshal.loads"),
}
READERS = {"yaml.load": {"conf/data_yaml.py"}}
"""Allowed in one file, with a loader of plain data."""


@cache
def parsed() -> list[tuple[Path, ast.Module]]:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [(path, ast.parse(path.read_text())) for path in files]


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT).as_posix(), ast.unparse(node.func), node


def test_nothing_that_is_read_is_run() -> None:
    found = [(path, name) for path, name, _ in calls() if name in FORBIDDEN or path not in READERS.get(name, {path})]
    assert found == []


def test_no_text_is_given_to_a_shell() -> None:
    assert not [path for path, _, call in calls() if any(word.arg == "shell" for word in call.keywords)]
