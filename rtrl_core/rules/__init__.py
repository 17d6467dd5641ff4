"""Learning rules by name: how the gradient of an unroll reaches the parameters of a core, and what is carried for it."""

from rtrl_core.rules.base import DiagonalRule, LearningRule, UnrolledRule
from rtrl_core.rules.reference import ReferenceRule
from rtrl_core.rules.segment import SegmentRule
from rtrl_core.rules.tbptt import TruncatedRule

RULES: dict[str, type[LearningRule]] = {rule.name: rule for rule in (SegmentRule, ReferenceRule, TruncatedRule)}

__all__ = ["RULES", "DiagonalRule", "LearningRule", "ReferenceRule", "SegmentRule", "TruncatedRule", "UnrolledRule"]
