"""Exact real-time recurrent learning for element-wise recurrences, and what an actor-critic agent needs around it. Torch only."""

from rtrl_core.cells import (
    CELLS,
    RECURRENT_CELLS,
    DiagonalCell,
    ELSTMCell,
    GRUCell,
    LocalDerivatives,
    LSTMCell,
    RecurrentCell,
    UnitwiseCell,
)
from rtrl_core.cores import (
    ELSTM,
    Core,
    CoreState,
    CrossLayerStack,
    DiagonalCore,
    GatedCore,
    RefreshedCore,
    StackedCore,
    UnrolledCore,
)
from rtrl_core.encoders import ENCODERS, Encoder
from rtrl_core.layer import RTRL
from rtrl_core.layout import FlatParameters, ParameterLayout
from rtrl_core.losses import Losses, actor_critic_losses, clip_rewards, within_reach
from rtrl_core.messages import (
    ContributionHeader,
    Episode,
    GradientContribution,
    UnrollStatistics,
    WeightsContribution,
    WeightsSnapshot,
)
from rtrl_core.network import NetworkSpec, PolicyNetwork, PolicyOutput
from rtrl_core.returns import VTrace, vtrace
from rtrl_core.rules import RULES, DiagonalRule, LearningRule, UnrolledRule
from rtrl_core.sensitivity import Sensitivity

__all__ = [
    "CELLS",
    "ELSTM",
    "ENCODERS",
    "RECURRENT_CELLS",
    "RTRL",
    "RULES",
    "ContributionHeader",
    "Core",
    "CoreState",
    "CrossLayerStack",
    "DiagonalCell",
    "DiagonalCore",
    "DiagonalRule",
    "ELSTMCell",
    "Encoder",
    "Episode",
    "FlatParameters",
    "GRUCell",
    "GatedCore",
    "GradientContribution",
    "LSTMCell",
    "LearningRule",
    "LocalDerivatives",
    "Losses",
    "NetworkSpec",
    "ParameterLayout",
    "PolicyNetwork",
    "PolicyOutput",
    "RecurrentCell",
    "RefreshedCore",
    "Sensitivity",
    "StackedCore",
    "UnitwiseCell",
    "UnrollStatistics",
    "UnrolledCore",
    "UnrolledRule",
    "VTrace",
    "WeightsContribution",
    "WeightsSnapshot",
    "actor_critic_losses",
    "clip_rewards",
    "vtrace",
    "within_reach",
]
