"""What a checkpoint says of a run, beside its weights, is believed only after it was checked: whoever made the file may not be us."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from learner.algorithms import IMPALA, R2AC, R2D2, StreamAC
from learner.optimizer import MOMENTS
from learner.receipts import Counters
from r2ac.persistence.manifest import is_count

Check = Callable[[Any], bool]

LONGEST_S = 1e12
_NUMBER_OF_AN_ACTOR = re.compile("[0-9]{1,9}")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Of a run at a logger, which makes a folder's name of it."""


def first_unsound(
    learner: Mapping[str, Any], progress: Mapping[str, Any], num_parameters: int, algorithm: Any = R2AC.name
) -> str | None:
    """Where a state that was read is not one that ``Learner.get_state`` and the training loop could have written.

    Args:
        num_parameters: of the checkpoint's layout.
        algorithm: by name. What the learner of one that is not ours keeps beside weights and counters is its own to read.

    Returns:
        The name of the first such entry, as a path; ``None`` if all are sound. What earlier versions did not write may be missing.
    """
    return _first_unsound("learner", learner, _learner(num_parameters, algorithm)) or _first_unsound(
        "progress", progress, _PROGRESS
    )


def _first_unsound(name: str, state: Any, checks: Mapping[str, Check | Mapping[str, Any]]) -> str | None:
    if not isinstance(state, Mapping):
        return name
    for key, check in checks.items():
        entry = key.removesuffix("?")
        if entry not in state:
            if not key.endswith("?"):
                return f"{name}/{entry}"
        elif isinstance(check, Mapping):
            if found := _first_unsound(f"{name}/{entry}", state[entry], check):
                return found
        elif not check(state[entry]):
            return f"{name}/{entry}"
    return None


def _number(value: Any) -> bool:
    """Also one that is not finite: it may be a return that a game has really given."""
    return type(value) is float or (type(value) is int and is_count(abs(value)))


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _dict_of(name: Check, check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(name(key) and check(entry) for key, entry in value.items())


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _actor(value: Any) -> bool:
    return _text(value) and _NUMBER_OF_AN_ACTOR.fullmatch(value) is not None


def _mark(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_count, value))


def _vector(size: int) -> Check:
    return lambda value: (
        isinstance(value, torch.Tensor) and value.dtype == torch.float32 and tuple(value.shape) == (size,)
    )


def _steps(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.shape == ()


def _moments(size: int) -> Check:
    """``Optimizer.get_state`` of any optimizer; empty before the first update."""
    forms = [{"step": _steps} | dict.fromkeys(names, _vector(size)) for names in MOMENTS.values()]
    return lambda value: (
        value == {}
        or any(
            isinstance(value, dict) and value.keys() == form.keys() and _first_unsound("", value, form) is None
            for form in forms
        )
    )


def _sinks(value: Any) -> bool:
    """Whatever else a logger keeps is its own to read; of an identifier it makes a path."""
    return _dict_of(_text, lambda state: isinstance(state, dict) and _identifier(state.get("run_id")))(value)


def _identifier(value: Any) -> bool:
    return value is None or (_text(value) and _IDENTIFIER.fullmatch(value) is not None)


def _replay(value: Any) -> bool:
    """As far as that can be told without the environment; the rest is the replay's to check."""
    checks: dict[str, Check] = {
        "chunks": lambda chunks: isinstance(chunks, dict),
        "powers": lambda powers: (
            isinstance(powers, torch.Tensor) and powers.dtype == torch.float64 and powers.dim() == 2
        ),
        "powers_of": _text,
        "last": _dict_of(_actor, lambda mark: isinstance(mark, list) and len(mark) == 3 and all(map(is_count, mark))),
        "noise": _text,
    }
    return isinstance(value, dict) and _first_unsound("", value, checks) is None


def _learner(size: int, algorithm: Any) -> dict[str, Any]:
    common = {
        "weights": _vector(size),
        "counters": lambda value: (
            isinstance(value, dict)
            and value.keys() == {field.name for field in fields(Counters)}
            and all(map(is_count, value.values()))
        ),
    }
    if algorithm in (R2AC.name, IMPALA.name):
        return common | {
            "sum": _vector(size),
            "segments": is_count,
            "optimizer": _moments(size),
            "seen": _dict_of(_actor, _mark),
            "oldest_version": is_count,
        }
    if algorithm == R2D2.name:
        return common | {
            "optimizer": _moments(size),
            "seen": _dict_of(_actor, _mark),
            "oldest_version": is_count,
            "target": _vector(size),
            "owed": lambda value: type(value) in (float, int) and value >= 0,
            "replay?": _replay,
        }
    return common | ({"seen": _dict_of(_actor, _mark)} if algorithm == StreamAC.name else {})


_TALLY: dict[str, Any] = {
    "episodes": is_count,
    "streams_reset?": is_count,
    "recent": _list_of(_number),
    "recent_by_level": _dict_of(_actor, _list_of(_number)),
    "level_steps": _list_of(is_count),
    "levels?": _list_of(_text),
    "lag_max": is_count,
    "elapsed_s": lambda value: type(value) in (float, int) and 0 <= value < LONGEST_S,
    "peak_rss_bytes": is_count,
    "env_counters": _dict_of(_text, _number),
}


def _tally(value: Any) -> bool:
    return value == {} or (
        _first_unsound("", value, _TALLY) is None
        and len(value.get("levels", value["level_steps"])) == len(value["level_steps"])
    )


_PROGRESS: dict[str, Any] = {
    "tally": _tally,
    "restarts": {"actor": is_count, "learner": is_count},
    "sinks": _sinks,
}
