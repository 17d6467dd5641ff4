"""What becomes of an actor of a fleet that follows its cluster when it cannot be reached, or cannot start where it should."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from patience import wait_until
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError

from actors import following_fleet
from actors.fleet import FleetState
from actors.following_fleet import FollowingFleet
from actors.wire import PackedSnapshot
from actors.worker import ActorIdentity
from conf.load import load_train
from conf.schema import TrainConfig
from envs.base import EnvironmentFailure
from learner.algorithms import find_algorithm
from learner.schedules import POLL_S
from r2ac.cluster.session import ray_cluster
from r2ac.training.build import describe_environment, initial_weights
from r2ac.training.sizing import sized
from rtrl_core import WeightsSnapshot

pytestmark = pytest.mark.slow
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors' processes do not find this file

WORDS = [
    *("experiment=tmaze", "env.corridor=3", "fleet.num_actors=auto", "fleet.address=auto", "actors.num_envs=2"),
    *("network.num_units=4", "fleet.max_restarts=1", "fleet.object_store_bytes=80_000_000"),
]


@pytest.fixture(scope="module")
def config() -> Iterator[TrainConfig]:
    """Of a cluster with room for two, on this machine."""
    config = sized(load_train(WORDS), 2)
    local = sized(load_train([*WORDS, "fleet.address=null", "fleet.num_actors=2"]), 2)
    with ray_cluster(local, 2):
        yield config


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def open_fleet(config: TrainConfig, said: list[str]) -> Iterator[Callable[..., FollowingFleet[Any]]]:
    opened: list[FollowingFleet[Any]] = []

    def start(build: Any) -> FollowingFleet[Any]:
        opened.append(FollowingFleet(config, 1, FleetState(), said.append, build))
        return opened[-1]

    yield start
    for fleet in opened:
        fleet.close()


def first_weights(config: TrainConfig) -> Any:
    layout, vector = initial_weights(config, describe_environment(config, print))
    return ray.put(PackedSnapshot.pack(WeightsSnapshot(0, layout.fingerprint, vector)))


def worker(config: TrainConfig) -> Any:
    return partial(find_algorithm(config.algorithm).worker, config)


def test_one_that_cannot_be_reached_is_waited_for_and_counts_only_if_its_node_lives(
    config: TrainConfig, open_fleet: Callable[..., FollowingFleet[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_fleet, "LOOK_S", 0.0)
    fleet, weights = open_fleet(worker(config)), first_weights(config)
    wait_until("both actors", lambda: fleet.wait(POLL_S) == [] and fleet.actor_ids == [0, 1])
    for actor_id in fleet.actor_ids:
        fleet.submit(actor_id, weights)
    finished = {unroll.member_id for unroll in collected(fleet, 2)}
    assert finished == {0, 1}
    assert fleet.num_actors == 2
    fleet.submit(1, weights)
    fleet._died(fleet._members[1], ActorUnavailableError("no answer", None), "no answer")
    assert fleet.num_actors == 1
    fleet.submit(1, weights)
    fleet.replace(1, "refused")
    assert collected(fleet, 0) == []
    assert fleet.restarts == 0, "it is not known yet what has become of it"
    monkeypatch.setattr(following_fleet, "DECISION_S", 0.0)
    (unroll,) = collected(fleet, 1)  # what it owed, of its next incarnation
    assert (unroll.member_id, fleet.restarts, fleet.num_actors) == (1, 1, 2)
    assert fleet.get_state().incarnations == {0: 0, 1: 1}


def collected(fleet: FollowingFleet[Any], count: int) -> list[Any]:
    found: list[Any] = []

    def is_enough() -> bool:
        found.extend(fleet.wait(POLL_S))
        return len(found) >= count

    wait_until(f"{count} unrolls", is_enough)
    return found


def unless_absent(build: Any, needed: Path, identity: ActorIdentity, state: Any) -> Any:
    if identity.actor_id and not needed.exists():
        raise EnvironmentFailure(f"{needed.name} is missing")
    return build(identity, state)


def test_a_node_on_which_one_could_not_start_is_tried_again_and_nothing_is_counted(
    config: TrainConfig,
    open_fleet: Callable[..., FollowingFleet[Any]],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following_fleet, "LOOK_S", 0.0)
    fleet = open_fleet(partial(unless_absent, worker(config), tmp_path / "the-file"))
    weights = first_weights(config)
    for actor_id in fleet.actor_ids:  # of the second it is known already that it failed, or it is only asked for
        fleet.submit(actor_id, weights)
    collected(fleet, 1)
    wait_until("the failure", lambda: fleet.wait(POLL_S) == [] and fleet.actor_ids == [0])
    assert len(said) == 1
    assert said[0].startswith("actor 1 could not start on a node (")
    assert "the-file is missing" in said[0]
    (tmp_path / "the-file").touch()
    assert fleet.wait(POLL_S) == []
    assert fleet.actor_ids == [0], "not before its time"
    monkeypatch.setattr(following_fleet.time, "monotonic", lambda now=following_fleet.time.monotonic: now() + 61.0)
    (unroll,) = collected(fleet, 1)
    assert (unroll.member_id, fleet.num_actors, fleet.restarts) == (1, 2, 0)
    assert said[1:] == ["1 actors are started on nodes that have room for them"]
    assert fleet.get_state().incarnations == {0: 0, 1: 1}
