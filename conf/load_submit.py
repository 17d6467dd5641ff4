"""From the words of ``rtrl-submit`` and ``rtrl-sweep`` to a checked job: its own options, and those that are left for the training."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.data_yaml import read_yaml
from conf.folder import FLAG, Folder, take_folder
from conf.knobs import UNPRINTABLE, ConfigError, validate
from conf.load import load_train
from conf.names import with_home
from conf.one_line import one_line
from conf.options import options
from conf.places import holds_password, redacted
from conf.spelling import unknown
from conf.stored import literal
from conf.submit_schema import TARGET_CONFIGS, SubmitConfig, SweepConfig, TargetConfig
from conf.words import build, split_word, text_or_none

JOB_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?")
"""What Kubernetes, SLURM and file systems all take."""
LONGEST_SWEEP = 40
"""Its jobs are called after it, with a number behind."""
_SET_BY_JOB = ("run_dir", "resume", "name")


def load_submit(words: Sequence[str]) -> tuple[SubmitConfig, list[str]]:
    """The job, and the words that are left for the training.

    Raises:
        ConfigError: for anything that cannot work; one line.
    """
    split = _split(words, SubmitConfig, "rtrl-submit", "job_name")
    config = build(SubmitConfig, _as_typed(split.own) | {"target": {}})
    config.target = split.target
    validate(config)
    _check_name("job_name", config.job_name, 47)
    _check_place(config)
    load_train(without_interpolation(split.training))  # a mistake should not wait for a queue to come to light
    return config, split.training


def load_sweep(words: Sequence[str]) -> tuple[SweepConfig, list[str]]:
    """The sweep, and the words that are left for the training, several values and all; what they make is not checked here.

    Raises:
        ConfigError: for anything that cannot work; one line.
    """
    split = _split(words, SweepConfig, "rtrl-sweep", "sweep_name")
    config = build(SweepConfig, _as_typed(split.own) | {"target": {}})
    config.target = split.target
    validate(config)
    _check_name("sweep_name", config.sweep_name, LONGEST_SWEEP)
    _check_place(config)
    return config, split.training


def without_interpolation(words: Sequence[str]) -> list[str]:
    """What can be known here of a training: ``${oc.env:NAME}`` is read where the job runs, and nowhere else."""
    return [word for word in words if "${" not in word]


@dataclass(frozen=True, slots=True)
class _Split:
    own: dict[str, str]
    target: TargetConfig
    training: list[str]


def _split(words: Sequence[str], schema: type, program: str, name: str) -> _Split:
    """The words by whom they are for. A folder of configuration files is for all of them, and handed on to the training."""
    folder, words = take_folder(words)
    target, of_target, own, training = "local", {}, {}, []
    for word in words:
        _check_word(word)
        key, value = split_word(word, program)
        if key == "target":
            target = value
        elif key.startswith("target."):
            of_target[key.removeprefix("target.")] = with_home(key, value)
        elif key in options(schema):
            own[key] = with_home(key, value)
        elif key in _SET_BY_JOB:
            raise ConfigError(f"{key} follows from the job: set {name} and run_root instead")
        else:
            training.append(word)
    if name not in own:
        raise ConfigError(f"{name} is needed: {name}=NAME")
    place = _load_target(target, of_target, folder)
    if folder.path is not None:  # elsewhere it may lie at the same place, which only the user knows
        training.insert(0, f"{FLAG}={folder.path if place.kind == 'local' else folder.given}")
    return _Split(own, place, training)


def _check_word(word: str) -> None:
    key = word.partition("=")[0]
    if any(unicodedata.category(character) in UNPRINTABLE for character in word):
        raise ConfigError(f"{one_line(key, 80)} must be one line without control characters, got {word[:80]!a}")
    if holds_password(word):
        raise ConfigError(
            f"{redacted(word)}: others can read a job's text, and this one holds a password; put it into the environment of the job "
            "and write ${oc.env:NAME} in its place"
        )


def _load_target(name: str, typed: dict[str, str], folder: Folder) -> TargetConfig:
    if name not in folder.all_files("target"):
        raise ConfigError(unknown("target", name, folder.all_files("target")))
    file = folder.file("target", name)
    values = _read_target(file)
    schema = TARGET_CONFIGS[values["kind"]]
    known = [f"target.{option}" for option in options(schema) if option != "kind"]
    for source, given in ((str(file), values), (f"target={name}", typed)):
        for option in given:
            if f"target.{option}" not in known and not (given is values and option == "kind"):
                raise ConfigError(unknown(f"option of {source}", f"target.{option}", known))
    return build(schema, _as_typed(values | typed), "target.")


def _read_target(file: Path) -> dict[str, Any]:
    """Every value as the text that it is."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} cannot be read: {one_line(error, 300)}") from None
    values = read_yaml(text, str(file), as_texts=True)
    kind = values.get("kind") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in TARGET_CONFIGS:
        raise ConfigError(f"{file} must begin with kind: one of {', '.join(TARGET_CONFIGS)}, got {one_line(kind, 80)}")
    return values


def _as_typed(values: dict[str, Any]) -> dict[str, Any]:
    """Words are left as they are where text is expected: ``${HOME}`` is for the shell of the job."""
    return {key: literal(text_or_none(value)) for key, value in values.items()}


def _check_name(option: str, name: str, longest: int) -> None:
    if not JOB_NAME.fullmatch(name) or len(name) > longest:
        raise ConfigError(
            f"{option} must be lower-case letters, digits and dashes, at most {longest}, got {one_line(name, 80)!r}"
        )


def _check_place(config: SubmitConfig | SweepConfig) -> None:
    local_path = "://" not in config.run_root and "${" not in config.run_root
    if config.target.kind == "local" or not local_path:
        return
    if config.target.kind == "kuberay" and config.target.runs_claim is None:  # pyright: ignore[reportAttributeAccessIssue]
        raise ConfigError("target.runs_claim=null keeps nothing of a run in a pod: set run_root to a URL (s3://...)")
