"""How many actors a node of a cluster has room for."""

from typing import Any

import pytest

from actors.places import BYTES_OF_ONE, capacities, rooms
from conf.load import load_train

GIB = 2.0**30
FOUR = {"CPU": 4.0}


def node(name: str, resources: dict[str, float], alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("words", "resources", "room"),
    [
        ((), {"CPU": 8.0, "memory": 16 * GIB}, 8),
        ((), {"CPU": 8.0}, 8),
        ((), {"CPU": 0.5}, 0),
        ((), {"memory": 16 * GIB}, 0),
        ((), {"CPU": 8.0, "memory": 3.5 * BYTES_OF_ONE}, 3),
        ((), {"CPU": 8.0, "memory": 1.0}, 1),
        (("actors.num_cpus=0.5",), {"CPU": 8.0}, 8),
        (("actors.num_cpus=3",), {"CPU": 8.0}, 2),
        (("actors.num_cpus=0",), {"CPU": 8.0}, 8),
        (("actors.num_gpus=0.25",), {"CPU": 8.0, "GPU": 1.0}, 4),
        (("actors.num_gpus=0.25",), {"CPU": 8.0}, 0),
        (("learner.num_cpus=2",), {"CPU": 8.0}, 8),
    ],
)
def test_a_core_memory_and_a_share_of_a_gpu_for_each(
    words: tuple[str, ...], resources: dict[str, float], room: int
) -> None:
    assert rooms([node("there", resources)], load_train(words), "here") == {"there": room}


def test_the_learner_takes_its_cores_of_the_drivers_node() -> None:
    nodes = [node("here", FOUR), node("there", FOUR), node("gone", FOUR, alive=False)]
    assert rooms(nodes, load_train(["learner.num_cpus=1.5"]), "here") == {"here": 2, "there": 4}
    with_gpu = load_train(["learner.num_cpus=1.5", "learner.num_gpus=1"])
    assert rooms(nodes, with_gpu, "here") == {"here": 4, "there": 4}
    assert rooms(nodes, load_train(["learner.num_cpus=9"]), "here") == {"here": 0, "there": 4}


@pytest.mark.parametrize(
    ("words", "resources", "capacity"),
    [
        ((), {"CPU": 8.0, "memory": 1.0}, 8.0),
        (("actors.num_cpus=0.25",), {"CPU": 8.0}, 32.0),
        (("actors.num_cpus=0",), {"CPU": 8.0}, 8.0),
        (("actors.num_cpus=0.5", "actors.num_gpus=0.25"), {"CPU": 8.0, "GPU": 1.0}, 4.0),
        (("actors.num_gpus=0.25",), {"CPU": 8.0}, 0.0),
    ],
)
def test_a_fleet_of_fixed_size_fills_what_its_actors_ask_for(
    words: tuple[str, ...], resources: dict[str, float], capacity: float
) -> None:
    nodes = [node("there", resources), node("gone", resources, alive=False)]
    assert capacities(nodes, load_train(words), "here") == {"there": capacity}
    assert capacities(nodes[:1], load_train(["learner.num_cpus=2"]), "there") == {"there": resources["CPU"] - 2}


@pytest.mark.parametrize("last", ["auto", "3", "null"])
def test_of_a_number_and_auto_the_last_holds(last: str) -> None:
    fleet = load_train(["fleet.num_actors=7", "fleet.num_actors=auto", f"fleet.num_actors={last}"]).fleet
    assert fleet.follow_cluster == (last == "auto")
    assert fleet.num_actors == (3 if last == "3" else None)
