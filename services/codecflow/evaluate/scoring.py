"""From results and labels to each contender's scores: on the windows that every contender answered, so like is compared
with like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from codecflow.messages import Question, Result

from . import metrics
from .contenders import REFERENCE

Key = tuple[int, int, str]
"""Clip (its place in the spec), window, question (its text)."""

Results = Mapping[Key, Result]
Labels = Mapping[Key, str]

MIN_CLIPS = 10
"""From so many clips on, whole clips are drawn anew for confidence intervals: windows of one clip resemble each other."""

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score and its 95 % bootstrap interval; nan where it has no meaning."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """Of `n` labelled windows, `positive` of them yes (yes-no).

    `f1_change`: against all/all, drawn in pairs. `auc`: yes-no of p(yes); choice the mean over labels. `accuracy`: share of
    right answers. `agreement` with all/all's answers and `dp_yes`, mean |p(yes) - all/all's|: over all windows, labelled
    or not.
    """

    type: str
    n: int
    positive: int | None
    precision: Estimate
    recall: Estimate
    f1: Estimate
    f1_change: Estimate
    auc: float
    accuracy: float
    agreement: float
    dp_yes: float

    @property
    def f1_always_yes(self) -> float | None:
        """What answering yes without looking would score; None for other types, and where it never is yes."""
        return 2 * self.positive / (self.n + self.positive) if self.positive else None


@dataclass(slots=True)
class Standing:
    """One contender. `f1`: mean over questions. `flops_share`: executed, of all/all's. `tokens_kept`: visual tokens encoded,
    of all/all's. `tokens_window`: visual tokens held when asked, mean. `windows`: that were answered."""

    name: str
    windows: int
    f1: float
    flops_share: float
    tokens_kept: float
    tokens_window: float
    agreement: float
    dp_yes: float
    questions: dict[str, QuestionScore] = field(default_factory=dict)


def score(
    questions: Sequence[Question], by_contender: Mapping[str, Results], labels: Labels, resamples: int = RESAMPLES
) -> list[Standing]:
    """Standings in the order of `by_contender`, which holds all/all."""
    common = set.intersection(*(set(results) for results in by_contender.values()))
    keys = sorted(common, key=lambda key: (key[2], key[0], key[1]))
    reference = by_contender[REFERENCE]
    return [
        _standing(name, questions, keys, results, reference, labels, resamples)
        for name, results in by_contender.items()
    ]


def _standing(
    name: str,
    questions: Sequence[Question],
    keys: Sequence[Key],
    results: Results,
    reference: Results,
    labels: Labels,
    resamples: int,
) -> Standing:
    scores = {}
    for question in questions:
        asked = [key for key in keys if key[2] == question.prompt]
        if asked:
            scores[question.prompt] = _question(question, asked, results, reference, labels, resamples)
    windows = {(clip, window): (clip, window, prompt) for clip, window, prompt in keys}.values()
    kept, held = 0, 0
    for key in windows:
        tokens = results[key].tokens
        kept, held = kept + tokens.kept, held + tokens.refreshed + tokens.reused
    whole = sum(reference[key].tokens.total for key in windows)
    executed, full = (sum(r[key].flops.vit + r[key].flops.llm for key in keys) for r in (results, reference))
    return Standing(
        name=name,
        windows=len(windows),
        f1=_mean([one.f1.value for one in scores.values()]),
        flops_share=executed / full,
        tokens_kept=kept / whole,
        tokens_window=held / len(windows),
        agreement=_mean([float(results[key].answer == reference[key].answer) for key in keys]),
        dp_yes=_mean(_dp_yes(keys, results, reference)),
        questions=scores,
    )


def _question(
    question: Question, asked: Sequence[Key], results: Results, reference: Results, labels: Labels, resamples: int
) -> QuestionScore:
    known = [key for key in asked if key in labels]
    truth = [labels[key] for key in known]
    said, before = ([r[key].answer for key in known] for r in (results, reference))
    drawn = _draws(known, resamples)
    if question.type == "text":
        own, other = (np.array([metrics.word_f1(t, s) for t, s in zip(truth, a, strict=True)]) for a in (said, before))
        f1, change = _means(own, drawn), _means(own - other, drawn)
        precision = recall = Estimate(np.nan, np.nan, np.nan)
    else:
        classes = ("yes",) if question.type == "yes-no" else question.labels
        of_all, of_reference = (_samples(metrics.outcomes(truth, a, classes), drawn) for a in (said, before))
        precision, recall, f1 = (_estimate(of_all[:, kind]) for kind in range(3))
        change = _estimate(of_all[:, 2] - of_reference[:, 2])
    return QuestionScore(
        type=question.type,
        n=len(known),
        positive=truth.count("yes") if question.type == "yes-no" else None,
        precision=precision,
        recall=recall,
        f1=f1,
        f1_change=change,
        auc=_auc(question, [results[key] for key in known], truth),
        accuracy=_mean([float(t == s) for t, s in zip(truth, said, strict=True)])
        if question.type != "text"
        else np.nan,
        agreement=_mean([float(results[key].answer == reference[key].answer) for key in asked]),
        dp_yes=_mean(_dp_yes(asked, results, reference)),
    )


def _draws(known: Sequence[Key], resamples: int) -> npt.NDArray[np.int64]:
    """(1 + resamples, windows): how often each window counts; first all of them once."""
    clips = sorted({key[0] for key in known})
    once = np.ones((1, len(known)), np.int64)
    if not known:
        return np.ones((1 + resamples, 0), np.int64)
    if len(clips) < MIN_CLIPS:
        return np.concatenate([once, metrics.resamplings(len(known), resamples)])
    place = [clips.index(key[0]) for key in known]
    return np.concatenate([once, metrics.resamplings(len(clips), resamples)[:, place]])


def _samples(counts: metrics.Counts, drawn: npt.NDArray[np.int64]) -> metrics.Floats:
    """(draws, 3): precision, recall, F1 of windows' outcomes (windows, classes, 3)."""
    windows, classes, _ = counts.shape
    return metrics.precision_recall_f1((drawn @ counts.reshape(windows, -1)).reshape(-1, classes, 3))


def _means(values: metrics.Floats, drawn: npt.NDArray[np.int64]) -> Estimate:
    with np.errstate(invalid="ignore"):
        return _estimate((drawn @ values) / drawn.sum(axis=1))


def _estimate(samples: metrics.Floats) -> Estimate:
    """The first sample is the score itself."""
    value = float(samples[0])
    low, high = metrics.interval(samples[1:]) if not np.isnan(value) else (np.nan, np.nan)
    return Estimate(value, low, high)


def _auc(question: Question, results: Sequence[Result], truth: Sequence[str]) -> float:
    if question.type == "yes-no":
        return metrics.auc([result.p_yes or 0.0 for result in results], [t == "yes" for t in truth])
    if question.type == "text":
        return np.nan
    probabilities = [result.label_probabilities or {} for result in results]
    return _mean(
        [metrics.auc([p.get(c, 0.0) for p in probabilities], [t == c for t in truth]) for c in question.labels]
    )


def _dp_yes(keys: Sequence[Key], results: Results, reference: Results) -> list[float]:
    pairs = [(results[key].p_yes, reference[key].p_yes) for key in keys]
    return [abs(a - b) for a, b in pairs if a is not None and b is not None]


def _mean(values: Sequence[float]) -> float:
    return float(metrics.nan_mean(np.array(values, np.float64)))
