"""A learner in a process of its own that dies, more than once."""

import pytest
import ray
import torch
from empty_statistics import no_statistics
from patience import wait_until
from torch import nn

from actors.ray_fleet import ContributionReference
from actors.wire import split
from conf.load import load_train
from learner.learner import GradientPlan
from learner.ray_learner import RayLearner
from r2ac.cluster.session import ray_cluster
from rtrl_core import ContributionHeader, GradientContribution, ParameterLayout


def contribution(layout: ParameterLayout, sequence: int) -> ContributionReference[GradientContribution]:
    header = ContributionHeader(0, 0, sequence, sequence, 10, 40, 4)
    gradient = torch.ones(layout.size)
    envelope, arrays = split(GradientContribution(header, layout.fingerprint, gradient, no_statistics()))
    return ContributionReference(envelope, ray.put(arrays))


@pytest.mark.slow
def test_the_version_of_a_learner_that_dies_unheard_of_is_not_that_of_the_next() -> None:
    """Which may begin with another checkpoint: what an actor makes of one's weights must not be credited to the other's."""
    config = load_train(["experiment=tmaze", "fleet.num_actors=1"])
    layout = ParameterLayout.of(nn.ModuleDict({"core": nn.Linear(3, 2)}))
    plan = GradientPlan(config.learner, layout, 4, 1000)
    states = [plan.first_state(torch.full((layout.size,), float(value))) for value in (1, 2, 3, 4)]
    said: list[str] = []
    with ray_cluster(config, 1):
        learner = RayLearner(plan, states.pop(), newest_state=states.pop, limits=config.fleet, announce=said.append)
        seen = [ray.get(learner.weights).unpack()]
        for deaths in (1, 2, 3):
            ray.kill(learner._process)  # which does not wait until it is dead

            def has_been_replaced(deaths: int = deaths) -> bool:
                learner.renew_weights()
                return len(said) == deaths

            wait_until("a learner in its place", has_been_replaced)
            seen.append(ray.get(learner.weights).unpack())
            if deaths == 2:  # versions that no receipt was read of, and that actors get all the same
                for sequence in range(3):
                    learner.send(contribution(layout, sequence + 2))
                learner.renew_weights()
                seen.append(ray.get(learner.weights).unpack())
        learner.close()
    began_with = [round(float(snapshot.vector[0])) for snapshot in seen]
    assert [(snapshot.version, first) for snapshot, first in zip(seen, began_with, strict=True)] == [
        *((0, 4), (1, 3), (2, 2), (5, 2), (6, 1))
    ]
    assert len(said) == 3
