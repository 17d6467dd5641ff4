"""Contributions of a small network to a learner, whose gradients are one number everywhere."""

import torch
from empty_statistics import no_statistics
from torch import nn

from rtrl_core import ContributionHeader, GradientContribution, ParameterLayout

LAYOUT = ParameterLayout.of(
    nn.ModuleDict({"encoder": nn.Linear(3, 4), "core": nn.Linear(4, 4), "policy_head": nn.Linear(4, 2)})
)


def contribution(
    value: float = 1.0, *, version=0, actor=0, incarnation=0, sequence=0, segments=4, steps=10, dtype=torch.float32
):
    gradient = torch.zeros(LAYOUT.size)
    for slot in LAYOUT.slots:
        slot.view(gradient).fill_(value)
    header = ContributionHeader(actor, incarnation, sequence, version, steps, 4 * steps, segments)
    return GradientContribution(header, LAYOUT.fingerprint, gradient.to(dtype), no_statistics())
