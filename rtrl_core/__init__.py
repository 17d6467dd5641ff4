"""Exact real-time recurrent learning for element-wise recurrences, and what an actor-critic agent needs around it. Torch only."""

from rtrl_core.cells import CELLS, DiagonalCell, ELSTMCell, LocalDerivatives
from rtrl_core.layout import FlatParameters, ParameterLayout
from rtrl_core.losses import Losses, actor_critic_losses, clip_rewards
from rtrl_core.messages import (
    ContributionHeader,
    Episode,
    GradientContribution,
    UnrollStatistics,
    WeightsSnapshot,
)
from rtrl_core.network import NetworkSpec, PolicyNetwork, PolicyOutput
from rtrl_core.recurrent import ELSTM, CoreState, DiagonalCore
from rtrl_core.returns import VTrace, vtrace
from rtrl_core.rules import RULES, LearningRule
from rtrl_core.sensitivity import Sensitivity

__all__ = [
    "CELLS",
    "ELSTM",
    "RULES",
    "ContributionHeader",
    "CoreState",
    "DiagonalCell",
    "DiagonalCore",
    "ELSTMCell",
    "Episode",
    "FlatParameters",
    "GradientContribution",
    "LearningRule",
    "LocalDerivatives",
    "Losses",
    "NetworkSpec",
    "ParameterLayout",
    "PolicyNetwork",
    "PolicyOutput",
    "Sensitivity",
    "UnrollStatistics",
    "VTrace",
    "WeightsSnapshot",
    "actor_critic_losses",
    "clip_rewards",
    "vtrace",
]
