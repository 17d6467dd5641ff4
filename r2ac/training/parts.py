"""Whether all that a configuration names by ``module:Class`` is there: asked before anything is built, submitted or written."""

from dataclasses import fields, is_dataclass
from typing import Any

from actors.parts import PART_NAMES, require_parts, require_refresh
from conf.knobs import ConfigError
from conf.schema import TrainConfig
from learner.algorithms import ALGORITHMS, Algorithm, find_algorithm
from rtrl_core import CELLS, ENCODERS, RECURRENT_CELLS, RULES
from rtrl_core.cores import CORES


def require_all_parts(config: TrainConfig) -> TrainConfig:
    """The same configuration.

    Raises:
        ConfigError: for a part that is not there or not of its kind, an option that it does not have, or that does not fit it, or
            options that the algorithm cannot do anything with.
    """
    require_parts(config.network, config.rule)
    algorithm = find_algorithm(config.algorithm)
    if not algorithm.refreshes_what_is_replayed:
        require_refresh(config.network, config.rule, config.actors.unroll)
    algorithm.require(config)
    _require_a_fleet_that_may_follow(config, algorithm)
    return config


def _require_a_fleet_that_may_follow(config: TrainConfig, algorithm: Algorithm[Any]) -> None:
    fleet = config.fleet
    if not fleet.follow_cluster:
        return
    keeps = None
    if not algorithm.follows:
        keeps = f"algorithm={config.algorithm.name} keeps a fleet of fixed size"
    elif config.learner.mode != "async":
        keeps = f"learner.mode={config.learner.mode} has rounds of a fleet of fixed size"
    elif fleet.num_streams is not None:
        keeps = f"fleet.num_streams={fleet.num_streams} is spread over a fleet of fixed size"
    if keeps is not None:
        raise ConfigError(f"fleet.num_actors=auto follows a cluster, but {keeps}: say fleet.num_actors=N")


def require_a_cluster_to_follow(config: TrainConfig) -> None:
    """Asked where training begins: a job that is submitted is told its cluster there.

    Raises:
        ConfigError: for a fleet that should follow a cluster, and none is named.
    """
    fleet = config.fleet
    if fleet.follow_cluster and (fleet.kind != "ray" or fleet.address is None):
        where = f"fleet={fleet.kind}" if fleet.kind != "ray" else "fleet.address=null"
        raise ConfigError(
            f"fleet.num_actors=auto follows a cluster, but {where} is this machine alone: name the cluster by fleet.address, or leave "
            "fleet.num_actors open (null) for an actor per core"
        )


def part_names() -> dict[str, tuple[str, ...]]:
    """Ours, by the option that takes one of them."""
    return {**PART_NAMES, "algorithm.name": tuple(ALGORITHMS)}


def part_options() -> list[str]:
    """A line for each part of ours that has options: ``network.core=mingru: network.core_options.keep_bias=1.0``."""
    lines = []
    for option, holder, parts in (
        ("network.core", "network.core_options", CELLS),
        (
            "network.core",
            "network.core_options",
            {name: part.Options for name, part in (RECURRENT_CELLS | CORES).items()},
        ),
        ("network.encoder", "network.encoder_options", {name: encoder.Options for name, encoder in ENCODERS.items()}),
        ("rule", "rule.options", RULES),
        ("algorithm", "algorithm.options", ALGORITHMS),
    ):
        for name, part in parts.items():
            if given := _defaults(part):
                shown = "  ".join(f"{holder}.{key}={value}" for key, value in given.items())
                lines.append(f"  {option}={name}: {shown}")
    return lines


def _defaults(part: type[Any]) -> dict[str, Any]:
    if not is_dataclass(part):
        return {}
    given = {spec.name: spec.default for spec in fields(part) if spec.init}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
