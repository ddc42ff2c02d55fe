"""Which tokens of a sampled frame are worth encoding. numpy only."""

from .config import COVERAGE_KINDS, POLICY_NAMES, CoverageKind, KeepConfig, PolicyName, parse_coverage
from .keep_state import Coverage, KeepState
from .policies import KeepDecision, Luma

__all__ = [
    "COVERAGE_KINDS",
    "POLICY_NAMES",
    "Coverage",
    "CoverageKind",
    "KeepConfig",
    "KeepDecision",
    "KeepState",
    "Luma",
    "PolicyName",
    "parse_coverage",
]
