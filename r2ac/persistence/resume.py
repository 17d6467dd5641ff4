"""Where a run begins: with nothing, at its own newest checkpoint, or at another run's.

What the new configuration cannot take over from the checkpoint is either refused in one line or said in one line.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from actors.fleet import FleetState
from conf.data_yaml import read_yaml
from conf.load import to_yaml
from conf.schema import TrainConfig
from learner.algorithms import R2D2
from learner.optimizer import MOMENTS
from r2ac.persistence import checkpoint as checkpoints
from r2ac.persistence.checkpoint import Checkpoint, CheckpointError, DamagedCheckpoint
from rtrl_core.layout import ParameterLayout

SAME_RUN = ("env.suite", "env.name", "rule.name", "algorithm.name", "seed", "learner.optimizer")
"""Sizes and lengths of a run may change on its way; what it is about may not."""
SHAPES_OF_ACTORS = (
    "env",
    "network.core",
    "network.core_options",
    "rule",
    "algorithm",
    "actors.num_envs",
    "actors.pipeline",
    "actors.device",
)
"""With another value, an actor cannot go on in the middle of its games."""
SHAPES_OF_REPLAY = ("env", "network.core", "network.core_options", "rule", "actors.num_envs", "actors.unroll")
"""With another value, what is kept to be learned from again cannot be."""
SHAPES_OF_REFRESHED = ("rule.refresh", "actors.unroll")
"""The same, where its core is refreshed: how many inputs are kept."""
ABSENT = object()
MEANT_BEFORE = {"algorithm.name": "r2ac", "rule.refresh": 0, "actors.pipeline": 1}
"""What configurations that were stored before an option existed meant by not having it."""


def resume_point(
    config: TrainConfig, run_dir: Path, layout: ParameterLayout, announce: Callable[[str], None]
) -> Checkpoint | None:
    """The checkpoint to go on from, less what this configuration cannot follow; ``None`` for a new run.

    A folder that has checkpoints of its own goes on from those, also with ``resume=PATH``: a job that is queued again must not
    begin again, nor wait for a person because the newest of them is damaged.

    Raises:
        CheckpointError: if ``resume`` names none, the folder is used but must not be, none of its checkpoints is whole, or the run or its
            network is another one.
    """
    present = checkpoints.available(run_dir)
    if config.resume == "never" and present:
        raise CheckpointError(
            f"resume=never, but {run_dir} already has checkpoints: choose another run_dir, or resume=auto"
        )
    if config.resume not in ("auto", "never"):
        source = checkpoints.find(Path(config.resume))
        if not present:
            return _of_another_run(source, load_matching(source, layout), config, announce)
        present = _without_damaged_newer(source, present, announce)
        if source.resolve() != present[-1].resolve():
            announce(f"{run_dir} has checkpoints of its own: it goes on from those, resume={config.resume} is left out")
    if not present:
        return None
    path, saved = newest_whole(present, announce)
    require_same_run(run_dir, saved, config)
    require_same_network(path, saved, layout)
    _require_moments(path, saved, config)
    return _less_what_has_other_shapes(saved, config, announce)


def newest_whole(present: list[Path], announce: Callable[[str], None]) -> tuple[Path, Checkpoint]:
    """The newest of a run's checkpoints that is as it was written. Damaged ones after it are renamed, and said.

    Raises:
        CheckpointError: if all of them are damaged, or one that is not cannot be used.
    """
    damaged: dict[Path, DamagedCheckpoint] = {}
    for path in reversed(present):
        try:
            saved = checkpoints.load(path)
        except DamagedCheckpoint as error:
            damaged[path] = error
            continue
        for newer in damaged:
            _set_aside(newer, announce)
        return path, saved
    raise damaged[present[-1]]


def finished(config: TrainConfig, run_dir: Path) -> str | None:
    """One line for a run that has all of its steps already, so that nothing is left to do; else ``None``.

    Raises:
        CheckpointError: as ``resume_point``, if the folder holds another run.
    """
    present = checkpoints.available(run_dir)
    if config.resume == "never" or not present or int(present[-1].name) < config.total_steps:
        return None
    try:
        saved = checkpoints.load(present[-1])
    except DamagedCheckpoint:
        return None
    require_same_run(run_dir, saved, config)
    return finished_line(saved, config, run_dir)


def finished_line(saved: Checkpoint, config: TrainConfig, run_dir: Path) -> str:
    return (
        f"{run_dir} is finished: it has {saved.agent_steps:,} agent steps of total_steps={config.total_steps:,}; "
        f"nothing was written, a larger total_steps goes on"
    )


def require_same_run(run_dir: Path, saved: Checkpoint, config: TrainConfig) -> None:
    """Raises ``CheckpointError`` if the run that is in the folder has another environment, learning rule, algorithm, optimizer or seed."""
    for option in _changed(saved, config, SAME_RUN):
        theirs, ours = _values(saved, config, option)
        raise CheckpointError(
            f"{run_dir} holds a run with {option}={theirs}, but this one has {ours}: choose another name or run_dir, "
            f"or say resume={run_dir} with a new run_dir to start from its weights"
        )


def load_matching(path: Path, layout: ParameterLayout) -> Checkpoint:
    loaded = checkpoints.load(path)
    require_same_network(path, loaded, layout)
    return loaded


def require_same_network(path: Path, saved: Checkpoint, layout: ParameterLayout) -> None:
    if saved.layout.fingerprint != layout.fingerprint:
        raise CheckpointError(
            f"checkpoint {path} is of another network ({saved.layout.size:,} parameters, this configuration has {layout.size:,}): "
            f"use the configuration it was trained with, or another run_dir"
        )


def _of_another_run(path: Path, saved: Checkpoint, config: TrainConfig, announce: Callable[[str], None]) -> Checkpoint:
    """Weights and counters go on; the logs of this run are its own, as are the returns of another environment.

    Raises:
        CheckpointError: if another algorithm has trained it, whose learner keeps other things.
    """
    for option in _changed(saved, config, ("algorithm.name",)):
        theirs, ours = _values(saved, config, option)
        raise CheckpointError(f"resume={config.resume} was trained with {option}={theirs}, but this run has {ours}")
    saved.progress = {**saved.progress, "sinks": {}}
    if _changed(saved, config, ("env.suite", "env.name")):
        saved.progress["tally"] = {}
        saved.score = None
    if _changed(saved, config, ("learner.optimizer",)):
        saved.learner["optimizer"] = {}
        announce(f"resume={config.resume} was trained with another learner.optimizer: its moments begin anew")
    _require_moments(path, saved, config)
    return _less_what_has_other_shapes(saved, config, announce)


def _require_moments(path: Path, saved: Checkpoint, config: TrainConfig) -> None:
    """Raises ``CheckpointError`` for a checkpoint whose configuration names another optimizer than the one it holds the state of."""
    moments = saved.learner.get("optimizer")
    if moments and moments.keys() != {"step", *MOMENTS[config.learner.optimizer]}:
        raise CheckpointError(
            f"checkpoint {path} is not of this program: it has no moments of {config.learner.optimizer}; use another one"
        )


def newest_learner(
    config: TrainConfig, run_dir: Path, layout: ParameterLayout, announce: Callable[[str], None]
) -> dict[str, Any]:
    """What the newest whole checkpoint of this run says of the learner: what one that takes the place of a failed one begins with.

    Raises:
        CheckpointError: as ``newest_whole``, and if there is none.
    """
    present = checkpoints.available(run_dir) or [checkpoints.find(run_dir)]
    path, saved = newest_whole(present, announce)
    require_same_network(path, saved, layout)
    return _less_replay_of_other_shape(saved, config, lambda line: None).learner


def _less_what_has_other_shapes(saved: Checkpoint, config: TrainConfig, announce: Callable[[str], None]) -> Checkpoint:
    return _less_replay_of_other_shape(_less_actors_of_other_shape(saved, config, announce), config, announce)


def _less_replay_of_other_shape(saved: Checkpoint, config: TrainConfig, announce: Callable[[str], None]) -> Checkpoint:
    if config.algorithm.name != R2D2.name:
        return saved
    changed = list(_changed(saved, config, SHAPES_OF_REPLAY))
    if changed and "replay" in saved.learner:
        saved.learner = {name: state for name, state in saved.learner.items() if name != "replay"}
        announce(
            f"{', '.join(changed)} changed since the checkpoint: the replay is filled anew before anything is learned"
        )
    elif "replay" not in saved.learner:
        announce(
            "the checkpoint has no replay, so it is filled anew before anything is learned; algorithm.options.checkpoint_replay keeps one"
        )
    return saved


def _less_actors_of_other_shape(saved: Checkpoint, config: TrainConfig, announce: Callable[[str], None]) -> Checkpoint:
    options = SHAPES_OF_ACTORS + SHAPES_OF_REFRESHED if config.rule.refresh else SHAPES_OF_ACTORS
    changed = list(_changed(saved, config, options))
    if changed and saved.fleet.actors:
        saved.fleet = FleetState(saved.fleet.incarnations)
        announce(f"{', '.join(changed)} changed since the checkpoint: actors begin new games")
    return saved


def _without_damaged_newer(source: Path, present: list[Path], announce: Callable[[str], None]) -> list[Path]:
    """The folder's checkpoints up to ``source``, if that is one of them; those after it must be damaged, and are renamed.

    Raises:
        CheckpointError: if one of them is whole: the run would go on from it later.
    """
    places = [path.resolve() for path in present]
    number = places.index(source.resolve()) if source.resolve() in places else len(present) - 1
    for newer in present[number + 1 :]:
        if _is_whole(newer):
            raise CheckpointError(
                f"resume={source} is older than {newer} of the same run: "
                f"choose a new run_dir to go on from it, or remove the newer ones"
            )
    for newer in present[number + 1 :]:
        _set_aside(newer, announce)
    return present[: number + 1]


def _set_aside(path: Path, announce: Callable[[str], None]) -> None:
    """Out of the way of checkpoints that are whole, where the disk lets it; one that stays is passed over again the next time."""
    aside = path.with_name(f"damaged_{path.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    except OSError as error:
        announce(f"{path} is damaged, and could not be renamed ({error}); the one before is used")
    else:
        announce(f"{path} is damaged, and was renamed; the one before is used")


def _is_whole(path: Path) -> bool:
    try:
        checkpoints.load(path)
    except CheckpointError:
        return False
    return True


def _changed(saved: Checkpoint, config: TrainConfig, options: Iterable[str]) -> list[str]:
    return [option for option in options if _differs(*_values(saved, config, option))]


def _values(saved: Checkpoint, config: TrainConfig, option: str) -> tuple[Any, Any]:
    """Of a section or an option: in the checkpoint and now; ``ABSENT`` for what the version that wrote it did not have."""
    sides = [read_yaml(text, "the stored configuration") for text in (saved.config_yaml, to_yaml(config))]
    for key in option.split("."):
        sides = [side.get(key, ABSENT) if isinstance(side, dict) else ABSENT for side in sides]
    return MEANT_BEFORE.get(option, ABSENT) if sides[0] is ABSENT else sides[0], sides[1]


def _differs(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return any(_differs(theirs[key], ours[key]) for key in theirs.keys() & ours.keys())
    return ABSENT not in (theirs, ours) and theirs != ours
