"""Learning rules by name: how the gradient of an unroll reaches the parameters of a core, and what is carried for it."""

from rtrl_core.rules.base import DiagonalRule, LearningRule, UnrolledRule
from rtrl_core.rules.dense import DenseRule
from rtrl_core.rules.leak import LeakRule
from rtrl_core.rules.reference import ReferenceRule
from rtrl_core.rules.segment import SegmentRule
from rtrl_core.rules.snap1 import SnAp1Rule
from rtrl_core.rules.tbptt import TruncatedRule
from rtrl_core.rules.uoro import UORORule

_OURS = (SegmentRule, ReferenceRule, TruncatedRule, SnAp1Rule, LeakRule, UORORule, DenseRule)
RULES: dict[str, type[LearningRule]] = {rule.name: rule for rule in _OURS}

__all__ = [
    "RULES",
    "DenseRule",
    "DiagonalRule",
    "LeakRule",
    "LearningRule",
    "ReferenceRule",
    "SegmentRule",
    "SnAp1Rule",
    "TruncatedRule",
    "UORORule",
    "UnrolledRule",
]
