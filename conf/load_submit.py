"""From the words of ``rtrl-submit`` to a checked job: its own options, and the training's, which are checked here too."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.knobs import CHOICES, HELP, UNPRINTABLE, ConfigError, validate
from conf.load import load_train
from conf.names import with_home
from conf.one_line import one_line
from conf.places import holds_password, redacted
from conf.stored import literal
from conf.submit_schema import TARGET_CONFIGS, SubmitConfig

FOLDER = Path(__file__).parent / "target"
JOB_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?")
"""What Kubernetes, SLURM and file systems all take."""
_OWN = tuple(spec.name for spec in fields(SubmitConfig) if spec.name != "target")
_SET_BY_JOB = ("run_dir", "resume", "name")


def load_submit(words: Sequence[str]) -> tuple[SubmitConfig, list[str]]:
    """The job, and the words that are left for the training.

    Raises:
        ConfigError: for anything that cannot work; one line.
    """
    target, options, own, training = "local", {}, {}, []
    for word in words:
        _check_word(word)
        key, separator, value = word.partition("=")
        if not separator:
            raise ConfigError(f"expected option=value, got {word!r}; rtrl-submit --help lists the options")
        if key == "target":
            target = value
        elif key.startswith("target."):
            options[key.removeprefix("target.")] = with_home(key, value)
        elif key in _OWN:
            own[key] = with_home(key, value)
        elif key in _SET_BY_JOB:
            raise ConfigError(f"{key} follows from the job: set job_name and run_root instead")
        else:
            training.append(word)
    if "job_name" not in own:
        raise ConfigError("job_name is needed: job_name=NAME")
    config = _build(SubmitConfig, own | {"target": {}}, "")
    config.target = _load_target(target, options)
    _check(config)
    load_train(without_interpolation(training))  # a mistake should not wait for a queue to come to light
    return config, training


def without_interpolation(words: Sequence[str]) -> list[str]:
    """What can be known here of a training: ``${oc.env:NAME}`` is read where the job runs, and nowhere else."""
    return [word for word in words if "${" not in word]


def _check_word(word: str) -> None:
    key = word.partition("=")[0]
    if any(unicodedata.category(character) in UNPRINTABLE for character in word):
        raise ConfigError(f"{one_line(key, 80)} must be one line without control characters, got {word[:80]!a}")
    if holds_password(word):
        raise ConfigError(
            f"{redacted(word)}: others can read a job's text, and this one holds a password; put it into the environment of the job "
            "and write ${oc.env:NAME} in its place"
        )


def describe_submit() -> str:
    """Every option with its default and meaning, for ``--help``."""
    names = ", ".join(_targets())
    lines = [
        "usage: rtrl-submit job_name=NAME [target=TARGET] [target.OPTION=VALUE ...] [--dry-run] [training options]"
    ]
    lines += ["", f"targets: {names}", "training options: rtrl-train --help", ""]
    lines += _describe(SubmitConfig, "")
    for kind, schema in TARGET_CONFIGS.items():
        lines += ["", f"target={kind}: {schema.__doc__}", *_describe(schema, "target.")]
    return "\n".join(lines)


def _describe(schema: type, prefix: str) -> list[str]:
    lines = []
    for spec in fields(schema):
        if spec.name in ("kind", "target"):
            continue
        default = {"???": "required", None: "null"}.get(spec.default, spec.default)  # pyright: ignore[reportArgumentType]
        choices = spec.metadata.get(CHOICES)
        meaning = spec.metadata.get(HELP, "") + (f" ({' | '.join(choices)})" if choices else "")
        lines.append(f"  {prefix + spec.name:24} {default!s:>26}   {meaning}")
    return lines


def _targets() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _load_target(name: str, options: dict[str, str]) -> Any:
    if name not in _targets():
        raise ConfigError(_unknown("target", name, _targets()))
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    schema = TARGET_CONFIGS[values["kind"]]
    known = [spec.name for spec in fields(schema)]
    for option in options:
        if option not in known or option == "kind":
            raise ConfigError(_unknown(f"option of target={name}", f"target.{option}", [f"target.{k}" for k in known]))
    return _build(schema, values | options, "target.")


def _build(schema: Any, values: dict[str, Any], prefix: str) -> Any:
    """Words are left as they are where text is expected: ``24:00:00`` is a number to YAML, ``${HOME}`` is for the shell of the job."""
    try:
        config = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(schema), {key: literal(_read(value)) for key, value in values.items()})
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"{prefix}{error.full_key}: {str(error).strip().splitlines()[0]}") from None
    return config


def _read(value: Any) -> Any:
    return None if value == "null" else value


def _check(config: SubmitConfig) -> None:
    validate(config)
    if not JOB_NAME.fullmatch(config.job_name):
        raise ConfigError(
            f"job_name must be lower-case letters, digits and dashes, at most 47, got {config.job_name!r}"
        )
    local_path = "://" not in config.run_root and "${" not in config.run_root
    if config.target.kind == "local" or not local_path:
        return
    if config.target.kind == "kuberay" and config.target.runs_claim is None:  # pyright: ignore[reportAttributeAccessIssue]
        raise ConfigError("target.runs_claim=null keeps nothing of a run in a pod: set run_root to a URL (s3://...)")


def _unknown(what: str, got: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(got, known, n=3)
    return f"unknown {what} {got!r}: " + (
        f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    )
