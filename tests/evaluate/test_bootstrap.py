"""How sure scores are told to be."""

from __future__ import annotations

import numpy as np
import pytest

from codecflow.evaluate.scoring import score
from codecflow.messages import Flops, Frames, Question, Result, Tokens

PERSON = "Is a person in view?"


def test_intervals_are_drawn_by_clip_where_there_are_many() -> None:
    """Ten clips whose windows are all alike within a clip: the interval of F1 must be that of ten drawings, not of forty."""
    question = Question("q1", PERSON, "yes-no")

    def result(clip: int, window: int) -> Result:
        says = "yes" if clip < 7 else "no"
        return Result(
            f"clip-{clip}", 1, window, 0, 1, 0, 0, "q1", PERSON, "yes-no", says, 0.5, None, Frames(1, 1),
            Tokens(1, 1, 1, 0), Flops(1, 1, 2), {}, "all", "all", "m", True,
        )  # fmt: skip

    def width(clips: int, windows: int) -> float:
        keys = [(c, w, PERSON) for c in range(clips) for w in range(windows)]
        (standing,) = score(
            [question], {"all/all": {k: result(*k[:2]) for k in keys}}, dict.fromkeys(keys, "yes"), resamples=400
        )
        f1 = standing.questions[PERSON].f1
        assert f1.value == pytest.approx(2 * 0.7 / 1.7, abs=0.05)
        return f1.high - f1.low

    assert width(10, 40) > 0.25  # as from ten drawings
    assert width(10, 40) == pytest.approx(width(10, 1), abs=0.01)
    assert np.isfinite(width(10, 2))
