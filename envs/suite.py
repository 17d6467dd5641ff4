"""An environment suite in one object: its options, how its environments are made, played, scored and checked.

    LAMPS = Suite(LampConfig, make)          all a suite must say: the rest has defaults

Importing the module of a ``Suite`` imports no game library: ``make`` does. ``envs/registry.py`` lists those that come with the program.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from conf.env_schema import EnvConfig

if TYPE_CHECKING:  # which is numpy: rtrl-doctor reads suites on machines where that may be broken
    from envs.base import EnvSpec, VectorEnv


@dataclass(frozen=True, slots=True)
class EvaluationProtocol:
    """How a suite is evaluated: on which environments, how many games, by which policy."""

    splits: Mapping[str, EnvConfig]
    """The environments by the name of the split; the first is the one that was trained on, or nearest to it."""
    episodes: int = 30
    """Games per split, run and policy."""
    runs: int = 1
    """Repetitions, each with a seed of its own."""
    policy: Literal["greedy", "sampled", "both"] = "both"


@dataclass(frozen=True, slots=True)
class SuiteScore:
    """One number for all splits together. It is printed as ``TITLE, POLICY: MEANING: NUMBER %``."""

    key: str
    """The JSON document of an evaluation has it as ``KEY_POLICY``."""
    title: str
    meaning: str
    of: Callable[[Mapping[str, Sequence[float]]], float | None]
    """From the returns of all games, by split; ``None`` if these splits make no score."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one part of this machine."""

    name: str
    status: Literal["ok", "missing", "broken"]
    """``missing`` parts are optional; ``broken`` ones keep the program from working."""
    detail: str
    advice: str = ""


Play = Callable[[str, Mapping[str, str]], Finding]
"""``play(name, options)`` resets and steps an environment of the suite, in a process of its own."""


def nothing_more(play: Play, options: Mapping[str, str]) -> Iterable[Finding]:
    return ()


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """What ``rtrl-doctor`` does about a suite, beside a reset and ten steps."""

    advice: str = ""
    """What to do where these fail; empty for what helps with most suites."""
    unasked: bool = True
    """Whether it is tried when nobody has named it."""
    options: Mapping[str, str] = field(default_factory=dict)
    """``option -> "VALUE  what it is for"``: what may be said as ``env.OPTION=VALUE`` without naming the suite."""
    more: Callable[[Play, Mapping[str, str]], Iterable[Finding]] = nothing_more
    """Further findings, from the ``env.OPTION=VALUE`` that were said. It never raises."""


def as_trained(config: EnvConfig) -> EvaluationProtocol:
    """Whole episodes of the very environment that was trained on."""
    return EvaluationProtocol({"episodes": config})


def no_score(spec: "EnvSpec", split: str, mean_return: float) -> float | None:
    return None


class Part(NamedTuple):
    """Where the streams of an environment stand among those of an actor that steps them in parts."""

    number: int
    of: int
    """Parts."""
    first_stream: int


@dataclass(frozen=True, slots=True)
class Suite:
    """All that the rest of the program knows about a suite."""

    config: type[EnvConfig]
    """Its options: a dataclass derived from ``EnvConfig``, with ``conf.knobs.knob`` for each."""
    make: Callable[..., "VectorEnv"]
    """``make(config, num_envs, seed)``. Raises ``UnknownEnvironment``, ``MissingDependency`` or ``EnvironmentFailure``."""
    takes_pictures: bool = False
    """Whether ``make`` must be told ``pictures=True`` or ``pictures=False``: if ``render`` will be called."""
    make_part: "Callable[[Any, int, int, Part], VectorEnv] | None" = None
    """``make_part(config, num_envs, seed, part)`` where several environments of ``make``, each with a seed of its own, would not be the
    parts of one: ``seed`` is that of all parts."""
    protocol: Callable[[Any], EvaluationProtocol] = as_trained
    """Its own way of evaluation, given the options that were trained with."""
    split_score: Callable[["EnvSpec", str, float], float | None] = no_score
    """``split_score(spec, split, mean_return)`` in percent, 0 for random play and 100 for a human; ``None`` where that is not known."""
    suite_score: SuiteScore | None = None
    check: DoctorCheck = field(default_factory=DoctorCheck)
