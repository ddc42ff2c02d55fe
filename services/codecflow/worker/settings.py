"""What a worker is told to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from codecflow.keep.config import KeepConfig
from codecflow.messages import Question

from .turns import Limits
from .windows import WindowPlan


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How streams are answered.

    `plan`: windows. `keep`: which tokens are encoded; its fps is the plan's. `question`: asked of every stream that
    has no description. `until_end`: stop once every stream that was seen has ended and is answered. `stuck_after_s`: how
    long the loop may stand still before it dumps its stacks: longer than anything in it may take (a transaction, a
    broker's silence).
    """

    plan: WindowPlan
    keep: KeepConfig
    question: Question | None = None
    until_end: bool = False
    limits: Limits = field(default_factory=Limits)
    stuck_after_s: float = 180.0
