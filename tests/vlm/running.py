"""Runs an engine in a test: records logits, and checks the bookkeeping after every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from codecflow.messages import Question
from codecflow.vlm.engine import Engine
from codecflow.vlm.families import Family
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.work import Frame, StreamOutcome, StreamWork

from .cases import Case

QUESTION = Question("q", "Is someone there?", "yes-no")
SECOND = Question("r", "What happens, in a few words that make this longer?", "text", max_tokens=3)
THIRD = Question("s", "no?", "yes-no")
TOLERANCE = 1e-4

properties = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def whole(family: Family, rgb: npt.NDArray[np.uint8], keep: npt.NDArray[np.bool_] | None = None) -> Frame:
    """Frame 0 of a picture (height, width, 3), completely kept unless `keep` is given."""
    height, width = rgb.shape[:2]
    if keep is None:
        keep = np.ones(family.grid(width, height).tokens, bool)
    return Frame(0, 0.0, keep, family.input.patches(rgb, keep), (width, height))


class Run:
    """An engine that records first logits, and checks its own bookkeeping after each step."""

    def __init__(self, case: Case, refresh: Refresh | str = "none", **options: Any) -> None:
        self.logits: dict[tuple[str, str], Tensor] = {}
        self.engine = Engine(case.family, refresh=refresh, observe=self._observe, **options)

    def _observe(self, stream: str, question: Question, logits: Tensor) -> None:
        self.logits[stream, question.id] = logits

    def step(
        self, frames: Sequence[Frame], first: int, questions: Sequence[Question] = (QUESTION,), stream: str = "camera"
    ) -> Tensor:
        """(questions, vocabulary)."""
        self.work = [StreamWork(stream, frames, first, questions)]
        self.outcomes = self.engine.step(self.work)
        assert self.outcome.error is None, self.outcome.error
        self.engine.check_integrity()
        return torch.stack([self.logits[stream, q.id] for q in questions])

    @property
    def outcome(self) -> StreamOutcome:
        return self.outcomes[0]


def assert_equal(got: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    difference = float((got - expected).abs().max())
    assert difference <= tolerance, f"{what}: max |Δlogit| = {difference:.3g}, more than {tolerance:g}"
