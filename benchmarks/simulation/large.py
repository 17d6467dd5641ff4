"""What one thread of a learner needs for a network of a real size, which the fleets of this benchmark have not."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.simulation.light import played
from conf.schema import LearnerConfig
from learner.learner import GradientPlan
from rtrl_core import ContributionHeader, GradientContribution, ParameterLayout

PARAMETERS = 1_650_000
"""About those of the Nature network with 256 units on Atari."""
ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians, in seconds."""

    parameters: int
    add_s: float
    """Of a sum, by ``Learner.add_sum``."""
    update_s: float
    """With the copy of the weights that is sent."""


def measured_costs() -> Costs:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured()
    finally:
        torch.set_num_threads(threads)


def _measured() -> Costs:
    layout = ParameterLayout.of(nn.ModuleDict({"core": nn.Linear(PARAMETERS // 1000 - 1, 1000)}))
    gradient = 1e-3 * torch.randn(layout.size, generator=torch.Generator().manual_seed(1))
    plan = GradientPlan(LearnerConfig(), layout, 1, 10**12)
    learner = plan.begin(torch.zeros(layout.size))
    adder = plan.adder()
    sums = []
    for sequence in range(ROUNDS):
        header = ContributionHeader(0, 0, sequence, sequence, 20, 20, 1)
        adder.add(GradientContribution(header, layout.fingerprint, gradient, played(20)), sequence)
        sums.append(adder.take())
    # Each of them completes a batch, so that an addition is what is left without the update.
    both = _median(lambda number: (learner.add_sum(sums[number]), learner.snapshot()))
    waiting = GradientPlan(LearnerConfig(), layout, 10**9, 10**12).begin(torch.zeros(layout.size))
    add = _median(lambda number: waiting.add_sum(sums[number]))
    return Costs(layout.size, add, both - add)


def _median(work: Callable[[int], object]) -> float:
    seconds = []
    for number in range(ROUNDS):
        started = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
