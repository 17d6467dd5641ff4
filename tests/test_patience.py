"""Tests depend on events and not on seconds: limits grow with the load, and no test file has one of its own."""

import ast
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import FACTOR, MOST, factor, patience, wait_until

TESTS = Path(__file__).parent
LIMIT = re.compile(r"(^|_)(timeout|deadline|limit)(_s)?$")
CLOCKS = {"cpu_times", "monotonic", "perf_counter"}
WAITS = {"acquire", "communicate", "end", "get", "join", "wait", "wait_procs"}
"""Whose first argument, where it is a number, is one of seconds."""
UNTIMED = {
    "conf": "words of a configuration are looked at, and nothing waits for them",
    "standins": "a stand-in is told how long to take",
    "patience.py": "the place for it",
    "test_patience.py": "its examples",
}
"""Folders and files that are not looked at, and why."""
RAY_TRAINING, NEVER_OVER = "integration/test_ray_training.py", "is never over: nothing may wait for it"
EXCEPTIONS = {
    ("opened_dmlab.py", "time.sleep(0.001)"): "until the system says that a killed process has died",
    ("docker/test_stack.py", "time.sleep(patience(30))"): "that nothing happens is seen by waiting alone",
    (
        "learner/test_schedules.py",
        "time.sleep(0.01)",
    ): "a fleet that has nothing to tell; how long that takes is all the same",
    ("r2ac/commands/test_doctor.py", "limit_s=0.5"): "is always over: the program never ends",
    (RAY_TRAINING, '"fleet.placement_timeout_s=1"'): "is always over: the cluster has no place",
    ("integration/test_following.py", '"fleet.placement_timeout_s=1"'): "is always over: the cluster has no room",
    (RAY_TRAINING, '"fleet.start_timeout_s=100000"'): NEVER_OVER,
    (RAY_TRAINING, '"fleet.unroll_timeout_s=100000"'): NEVER_OVER,
}
"""What is left, by file, and why it may be."""


def is_number(node: ast.AST | None) -> bool:
    """Written down, or computed from such alone."""
    if isinstance(node, ast.BinOp):
        return is_number(node.left) and is_number(node.right)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def called(node: ast.AST) -> str:
    """The last part of a function's name; nothing if it is no call."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def is_of_a_clock(node: ast.AST) -> bool:
    """A time that is computed or compared by oneself."""
    names = {called(part) for part in ast.walk(node)}
    return isinstance(node, ast.BinOp | ast.Compare) and bool(names & CLOCKS) and "patience" not in names


def defaults(node: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    yield from zip(node.args[::-1], node.defaults[::-1], strict=False)
    yield from zip(node.kwonlyargs, node.kw_defaults, strict=True)


def seconds_in(tree: ast.AST) -> Iterator[ast.AST]:
    """The places at which a file decides by itself how long something may take."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg=str(name), value=value) if LIMIT.search(name) and is_number(value):
                yield node
            case ast.arguments():
                yield from (name for name, value in defaults(node) if LIMIT.search(name.arg) and is_number(value))
            case ast.Call(args=[first, *_]) if called(node) == "sleep" or (called(node) in WAITS and is_number(first)):
                yield node
            case ast.Constant(value=str(text)) if re.search(r"_timeout_s=\d", text):
                yield node
            case _ if is_of_a_clock(node):
                yield node


def seconds_of_files() -> set[tuple[str, str | None]]:
    found = set()
    for path in TESTS.rglob("*.py"):
        name = path.relative_to(TESTS)
        if name.parts[0] not in UNTIMED:
            text = path.read_text()
            found |= {(str(name), ast.get_source_segment(text, node)) for node in seconds_in(ast.parse(text))}
    return found


def test_no_test_has_a_limit_in_seconds_of_its_own():
    found = seconds_of_files()
    assert sorted(found - EXCEPTIONS.keys(), key=str) == [], "say patience(seconds) or wait_until (tests/patience.py)"
    assert EXCEPTIONS.keys() - found == set(), "these exceptions are of nothing any more"


@pytest.mark.parametrize(
    "line",
    [
        "process.wait(60)",
        "run(words, timeout=2 * 60)",
        "DMLabConfig(step_timeout_s=0.7)",
        "def wait(what, timeout_s=90): ...",
        "def wait(*, deadline=90): ...",
        "assert time.monotonic() - start < 3",
        "deadline = time.monotonic() + 10",
        "while process.cpu_times().user < 6: ...",
        "time.sleep(0.3)",
        'words = ["fleet.start_timeout_s=10"]',
    ],
)
def test_such_a_limit_is_found(line: str):
    assert list(seconds_in(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "process.wait(patience(60))",
        "process.wait()",
        "sinks.join(time.monotonic() + patience(60))",
        'f"fleet.start_timeout_s={limit_s}"',
        "start = time.monotonic()",
        "run(words, timeout=limit_s)",
    ],
)
def test_what_goes_through_patience_is_none(line: str):
    assert not list(seconds_in(ast.parse(line)))


def test_patience_grows_with_the_load_up_to_a_limit_unless_one_says_how_much(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(FACTOR, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    for load, expected in (
        ((0.1, 0.2, 0.3), 1.0),
        ((6.0, 1.0, 1.0), 3.0),
        ((1.0, 5.0, 2.0), 2.5),
        ((900.0, 1.0, 1.0), MOST),
    ):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: load)
        assert factor() == expected
        assert patience(10) == 10 * expected
    monkeypatch.setenv(FACTOR, "0.5")
    assert patience(10) == 5


def test_waiting_ends_with_the_event_or_with_what_was_seen_instead(monkeypatch: pytest.MonkeyPatch):
    looks = iter([False, False, True])
    wait_until("the third look", lambda: next(looks), 3600, pause_s=0)
    monkeypatch.setenv(FACTOR, "0")
    with pytest.raises(AssertionError, match=r"waited 0 s for the event: its log"):
        wait_until("the event", lambda: False, details=lambda: "its log")


def test_the_limit_of_a_test_is_looked_at_again_when_it_is_over(monkeypatch: pytest.MonkeyPatch):
    if not callable(signal.getsignal(signal.SIGALRM)):
        pytest.skip("tests have no limit, or it is not watched by signal")
    monkeypatch.setenv(FACTOR, "1000")
    signal.raise_signal(signal.SIGALRM)
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 10_000
    monkeypatch.setenv(FACTOR, "0")
    with pytest.raises(pytest.fail.Exception, match="Timeout"):
        signal.raise_signal(signal.SIGALRM)
