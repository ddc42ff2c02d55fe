"""From results and labels to each contender's scores: on the windows that every contender answered, so like is compared
with like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from codecflow.messages import Question, Result

from . import bootstrap, metrics
from .bootstrap import RESAMPLES, Estimate
from .contenders import REFERENCE

Key = tuple[int, int, str]
"""Clip (its place in the spec), window, question (its text)."""

Results = Mapping[Key, Result]
Labels = Mapping[Key, str]


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


@dataclass(frozen=True, slots=True)
class Standing:
    """One contender. `f1`: mean over questions; `f1_change`: against all/all, drawn in pairs over all questions together.
    `flops_share`: executed, of all/all's. `tokens_kept`: visual tokens encoded, of all/all's. `tokens_window`: visual tokens
    held when asked, mean. `windows`: that were answered. `f1_draws`: (draws, questions) F1 on the drawings that all
    contenders share, the first being F1 itself."""

    name: str
    windows: int
    f1: float
    f1_change: Estimate
    flops_share: float
    tokens_kept: float
    tokens_window: float
    agreement: float
    dp_yes: float
    f1_draws: metrics.Floats = field(repr=False)
    questions: dict[str, QuestionScore] = field(default_factory=dict)


def score(
    questions: Sequence[Question], by_contender: Mapping[str, Results], labels: Labels, resamples: int = RESAMPLES
) -> list[Standing]:
    """Standings in the order of `by_contender`, which holds all/all."""
    common = set.intersection(*(set(results) for results in by_contender.values()))
    keys = sorted(common, key=lambda key: (key[2], key[0], key[1]))
    known = [key for key in keys if key in labels]
    drawings = bootstrap.Drawings([key[:2] for key in known], resamples)
    of_question = [[key for key in known if key[2] == question.prompt] for question in questions]

    def f1_draws(results: Results) -> metrics.Floats:
        of_each = [
            _samples(question, own, results, labels, drawings)[:, 2]
            for question, own in zip(questions, of_question, strict=True)
            if own
        ]
        return np.stack(of_each, axis=1) if of_each else np.full((1 + resamples, 1), np.nan)

    of_contender = {name: f1_draws(results) for name, results in by_contender.items()}
    reference = by_contender[REFERENCE]
    return [
        _standing(
            name,
            {
                question.prompt: _question(question, asked, results, reference, labels, resamples)
                for question in questions
                if (asked := [key for key in keys if key[2] == question.prompt])
            },
            keys,
            (results, reference),
            (of_contender[name], of_contender[REFERENCE]),
        )
        for name, results in by_contender.items()
    ]


def mean_change(own: metrics.Floats, other: metrics.Floats) -> Estimate:
    """How far the mean F1 over questions is above another one's, of (draws, questions) on the same drawings."""
    return bootstrap.estimate(metrics.nan_mean(own - other, axis=1))


def _standing(
    name: str,
    scores: dict[str, QuestionScore],
    keys: Sequence[Key],
    both: tuple[Results, Results],
    f1_draws: tuple[metrics.Floats, metrics.Floats],
) -> Standing:
    """`both`, `f1_draws`: this contender's and all/all's."""
    results, reference = both
    windows = {(clip, window): (clip, window, prompt) for clip, window, prompt in keys}.values()
    kept, held = 0, 0
    for key in windows:
        tokens = results[key].tokens
        kept, held = kept + tokens.kept, held + tokens.refreshed + tokens.reused
    whole = sum(reference[key].tokens.total for key in windows)
    executed, full = (sum(r[key].flops.vit + r[key].flops.llm for key in keys) for r in both)
    return Standing(
        name=name,
        windows=len(windows),
        f1=_mean([one.f1.value for one in scores.values()]),
        f1_change=mean_change(*f1_draws),
        flops_share=executed / full,
        tokens_kept=kept / whole,
        tokens_window=held / len(windows),
        agreement=_mean([float(results[key].answer == reference[key].answer) for key in keys]),
        dp_yes=_mean(_dp_yes(keys, results, reference)),
        f1_draws=f1_draws[0],
        questions=scores,
    )


def _question(
    question: Question, asked: Sequence[Key], results: Results, reference: Results, labels: Labels, resamples: int
) -> QuestionScore:
    known = [key for key in asked if key in labels]
    truth = [labels[key] for key in known]
    drawings = bootstrap.Drawings([key[:2] for key in known], resamples)
    own, other = (_samples(question, known, r, labels, drawings) for r in (results, reference))
    precision, recall, f1 = (bootstrap.estimate(own[:, kind]) for kind in range(3))
    return QuestionScore(
        type=question.type,
        n=len(known),
        positive=truth.count("yes") if question.type == "yes-no" else None,
        precision=precision,
        recall=recall,
        f1=f1,
        f1_change=bootstrap.estimate(own[:, 2] - other[:, 2]),
        auc=_auc(question, [results[key] for key in known], truth),
        accuracy=_mean([float(labels[key] == results[key].answer) for key in known])
        if question.type != "text"
        else np.nan,
        agreement=_mean([float(results[key].answer == reference[key].answer) for key in asked]),
        dp_yes=_mean(_dp_yes(asked, results, reference)),
    )


def _samples(
    question: Question, known: Sequence[Key], results: Results, labels: Labels, drawings: bootstrap.Drawings
) -> metrics.Floats:
    """(draws, 3): precision, recall and F1. A text has F1 alone."""
    truth, said = [labels[key] for key in known], [results[key].answer for key in known]
    drawn = drawings.of([key[:2] for key in known])
    if question.type == "text":
        f1 = bootstrap.of_means(np.array([metrics.word_f1(t, s) for t, s in zip(truth, said, strict=True)]), drawn)
        return np.stack([np.full_like(f1, np.nan), np.full_like(f1, np.nan), f1], axis=1)
    classes = ("yes",) if question.type == "yes-no" else question.labels
    return bootstrap.of_outcomes(metrics.outcomes(truth, said, classes), drawn)


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
