"""The reported uncertainty of scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from codecflow.messages import Flops, Frames, Question, Result, Tokens
from codecflow.tools.evaluate import answer_scores
from codecflow.tools.evaluate.report import document, print_questions
from codecflow.tools.evaluate.scoring import Key, Results, score

PERSON, CAR = "Is a person in view?", "Is a car in view?"
BOTH = [Question("q1", PERSON, "yes-no"), Question("q2", CAR, "yes-no")]


def answered(keys: Sequence[Key], no_in_every: int) -> Results:
    """yes, except in every such window."""
    return {
        (clip, window, prompt): Result(
            f"clip-{clip}", 1, window, 0, 1, 0, 0, "q", prompt, "yes-no", "no" if window % no_in_every == 0 else "yes", 0.5,
            None, Frames(1, 1), Tokens(1, 1, 1, 0), Flops(1, 1, 2), {}, "all", "all", "m", True,
        )
        for clip, window, prompt in keys
    }  # fmt: skip


def test_questions_that_are_labelled_in_different_windows_share_one_drawing() -> None:
    keys = [(0, w, question.prompt) for w in range(60) for question in BOTH]
    labels = {key: "yes" for key in keys if key[2] == PERSON or key[1] < 25}
    ran = score(BOTH, {"all/all": answered(keys, 7), "all/none": answered(keys, 3)}, labels, resamples=200)
    for standing in ran:
        assert standing.f1_draws.shape == (201, 2)
        for drawn, prompt in zip(standing.f1_draws.T, (PERSON, CAR), strict=True):
            f1 = standing.questions[prompt].f1
            assert (f1.low, f1.high) == answer_scores.interval(drawn[1:])
            assert f1.low < f1.value == drawn[0] < f1.high
    change = (ran[1].f1_draws - ran[0].f1_draws).mean(axis=1)
    assert (ran[1].f1_change.low, ran[1].f1_change.high) == answer_scores.interval(change[1:])


def test_a_question_of_which_no_window_is_labelled_has_no_score() -> None:
    keys = [(0, w, question.prompt) for w in range(12) for question in BOTH]
    (standing,) = score(BOTH, {"all/all": answered(keys, 3)}, {key: "yes" for key in keys if key[2] == PERSON}, 50)
    person, car = standing.questions[PERSON], standing.questions[CAR]
    assert (person.n, car.n, car.positive) == (12, 0, 0)
    assert np.isnan([car.f1.value, car.recall.value, car.auc, car.accuracy]).all()
    assert standing.f1 == person.f1.value == pytest.approx(2 * 8 / (2 * 8 + 4))
    assert car.agreement == 1


def test_no_interval_is_reported_where_all_is_drawn_together(capsys: pytest.CaptureFixture[str]) -> None:
    """A question that is labelled in one clip of ten: each sample contains only that clip, some number of times, or lacks
    it."""
    keys = [(c, w, question.prompt) for c in range(10) for w in range(6) for question in BOTH]
    labels = {key: "yes" for key in keys if key[2] == PERSON or key[0] == 3}
    ran = score(BOTH, {"all/all": answered(keys, 2), "all/none": answered(keys, 3)}, labels, resamples=100)
    car = ran[1].questions[CAR]
    assert (car.f1.value, car.f1_change.value) == (pytest.approx(2 * 4 / 10), pytest.approx(2 * 4 / 10 - 2 * 3 / 9))
    assert np.isnan([car.f1.low, car.f1.high, car.f1_change.low, car.precision.low]).all()
    scores = document(ran, "all/none", [], {})["all/none"]
    assert isinstance(scores, dict)
    assert scores[CAR]["f1_ci95"] == [None, None]
    print_questions(ran, trained=True)
    printed = capsys.readouterr().out
    assert "0.800 (-)" in printed
    assert "+0.133 (-)" in printed
    assert "nan" not in printed


def test_intervals_are_drawn_by_clip_where_there_are_many() -> None:
    """Ten clips with identical windows within each clip: F1's interval must be that of ten samples, not of forty."""
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

    assert width(10, 40) > 0.25  # as from ten samples
    assert width(10, 40) == pytest.approx(width(10, 1), abs=0.01)
    assert np.isfinite(width(10, 2))
