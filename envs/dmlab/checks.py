"""What ``rtrl-doctor`` asks of DMLab beside playing it: the pictures of two levels, and the program that packs maps."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from envs.dmlab import module
from envs.suite import DoctorCheck, Finding, Play

PICTURED_LEVEL = "psychlab_continuous_recognition"


def further_findings(play: Play, options: Mapping[str, str]) -> Iterator[Finding]:
    yield pictures_finding(play, options.get("dataset_path"))
    yield zip_finding()


def pictures_finding(play: Play, dataset_path: str | None) -> Finding:
    """The pictures that two of the levels show; they are tried by playing one of the two."""
    name = "DMLab pictures"
    if dataset_path is None:
        advice = "rtrl-doctor env.dataset_path=FOLDER tries them; only two psychlab levels need them"
        return Finding(name, "missing", "no folder was given", advice)
    if not Path(dataset_path).is_dir():
        return Finding(name, "broken", f"{dataset_path} is not a folder", "correct env.dataset_path, or leave it out")
    return replace(play(PICTURED_LEVEL, {"dataset_path": dataset_path}), name=name)


def zip_finding() -> Finding:
    if not module.has_zip():
        return Finding(
            "zip", "missing", "DMLab levels that build maps need it", "apt install zip, or your system's way"
        )
    return Finding("zip", "ok", "packs the maps that DMLab levels build")


CHECK = DoctorCheck(
    advice="its module and its levels are your own: docs/dmlab.md lists known troubles",
    options={"dataset_path": "FOLDER  also try the pictures that two of DMLab's levels show"},
    more=further_findings,
)
