"""Scores per contender and question, with paired intervals, and comparisons at equal FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from codecflow.messages import Question, Result

from . import answer_scores, bootstrap
from .bootstrap import RESAMPLES, Estimate
from .contender_names import family_of, keep_policy

Key = tuple[int, int, str]
"""Clip (its index in the spec), window, question (its text)."""

Results = Mapping[Key, Result]
Labels = Mapping[Key, str]


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """Scores over `n` labelled windows, `positive` of them yes (yes-no).

    `f1_change`: against the reference, from paired samples. `auc`: yes-no of p(yes); choice the mean over labels.
    `accuracy`: share of right answers. `agreement` with the reference's answers and `dp_yes`, mean |p(yes) - the
    reference's|: over all windows, labelled or not.
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
        """F1 of always answering yes; None for other types, and if the label is never yes."""
        return 2 * self.positive / (self.n + self.positive) if self.positive else None


@dataclass(frozen=True, slots=True)
class Standing:
    """One contender. `f1`: mean over questions; `f1_change`: against the reference, from paired samples over all
    questions together. `flops_share`: executed, relative to the reference. `tokens_kept`: visual tokens encoded, relative to
    all new tokens. `tokens_window`: mean number of visual tokens held when asked. `windows`: number answered.
    `f1_draws`: (draws, questions) F1 on the samples that all contenders share, the first being F1 itself."""

    name: str
    windows: int
    f1: float
    f1_change: Estimate
    flops_share: float
    tokens_kept: float
    tokens_window: float
    agreement: float
    dp_yes: float
    f1_draws: answer_scores.Floats = field(repr=False)
    questions: dict[str, QuestionScore] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _QuestionData:
    """One question. `keys`: the windows with answers; `known`: which of them are labelled, and with what (`truth`). `drawn`:
    (draws, known), weights of each sample. `differ`: whether samples differ at all."""

    question: Question
    keys: list[Key]
    known: list[Key]
    truth: list[str]
    drawn: npt.NDArray[np.int64]
    differ: bool


@dataclass(frozen=True, slots=True)
class _Scored:
    """One contender's results, and for each question its (draws, 3) precision, recall and F1."""

    results: Results
    samples: list[answer_scores.Floats]

    @property
    def f1_draws(self) -> answer_scores.Floats:
        return np.stack([samples[:, 2] for samples in self.samples], axis=1)


def score(
    questions: Sequence[Question], by_contender: Mapping[str, Results], labels: Labels, resamples: int = RESAMPLES
) -> list[Standing]:
    """Standings in the order of `by_contender`, whose first is the reference."""
    common = set.intersection(*(set(results) for results in by_contender.values()))
    keys = sorted(common, key=lambda key: (key[2], key[0], key[1]))
    drawings = bootstrap.Drawings([key[:2] for key in keys if key in labels], resamples)
    data = []
    for question in questions:
        of_it = [key for key in keys if key[2] == question.prompt]
        known = [key for key in of_it if key in labels]
        places = [key[:2] for key in known]
        truth = [labels[key] for key in known]
        if of_it:
            data.append(_QuestionData(question, of_it, known, truth, drawings.of(places), drawings.differ(places)))
    scored = {
        name: _Scored(results, [_samples(one, results) for one in data]) for name, results in by_contender.items()
    }
    reference = next(iter(scored.values()))
    return [_standing(name, data, keys, one, reference) for name, one in scored.items()]


def mean_change(own: answer_scores.Floats, other: answer_scores.Floats) -> Estimate:
    """Difference of the mean F1 over questions from another one's, of (draws, questions) on the same samples."""
    return bootstrap.estimate(answer_scores.nan_mean(own - other, axis=1))


def _standing(
    name: str, data: Sequence[_QuestionData], keys: Sequence[Key], own: _Scored, reference: _Scored
) -> Standing:
    results, expected = own.results, reference.results
    scores = {
        one.question.prompt: _question(one, results, expected, samples, others)
        for one, samples, others in zip(data, own.samples, reference.samples, strict=True)
    }
    windows = {(clip, window): (clip, window, prompt) for clip, window, prompt in keys}.values()
    kept, held = 0, 0
    for key in windows:
        tokens = results[key].tokens
        kept, held = kept + tokens.kept, held + tokens.refreshed + tokens.reused
    whole = sum(expected[key].tokens.total for key in windows)
    executed, full = (sum(r[key].flops.vit + r[key].flops.llm for key in keys) for r in (results, expected))
    return Standing(
        name=name,
        windows=len(windows),
        f1=_mean([one.f1.value for one in scores.values()]),
        f1_change=mean_change(own.f1_draws, reference.f1_draws),
        flops_share=executed / full,
        tokens_kept=kept / whole,
        tokens_window=held / len(windows),
        agreement=_mean([float(results[key].answer == expected[key].answer) for key in keys]),
        dp_yes=_mean(_dp_yes(keys, results, expected)),
        f1_draws=own.f1_draws,
        questions=scores,
    )


def _question(
    data: _QuestionData,
    results: Results,
    expected: Results,
    samples: answer_scores.Floats,
    others: answer_scores.Floats,
) -> QuestionScore:
    """`expected`, `others`: the reference's results and samples."""
    if not data.differ:
        samples, others = samples[:1], others[:1]
    question, known, truth = data.question, data.known, data.truth
    precision, recall, f1 = (bootstrap.estimate(samples[:, kind]) for kind in range(3))
    right = [float(results[key].answer == t) for key, t in zip(known, truth, strict=True)]
    return QuestionScore(
        type=question.type,
        n=len(known),
        positive=truth.count("yes") if question.type == "yes-no" else None,
        precision=precision,
        recall=recall,
        f1=f1,
        f1_change=bootstrap.estimate(samples[:, 2] - others[:, 2]),
        auc=_auc(question, [results[key] for key in known], truth),
        accuracy=_mean(right) if question.type != "text" else np.nan,
        agreement=_mean([float(results[key].answer == expected[key].answer) for key in data.keys]),
        dp_yes=_mean(_dp_yes(data.keys, results, expected)),
    )


def _samples(data: _QuestionData, results: Results) -> answer_scores.Floats:
    """(draws, 3): precision, recall and F1. A text has only F1."""
    question, answers = data.question, [results[key].answer for key in data.known]
    if question.type == "text":
        overlap = np.array([answer_scores.word_f1(t, s) for t, s in zip(data.truth, answers, strict=True)], np.float64)
        f1 = bootstrap.of_means(overlap, data.drawn)
        return np.stack([np.full_like(f1, np.nan), np.full_like(f1, np.nan), f1], axis=1)
    classes = ("yes",) if question.type == "yes-no" else question.labels
    return bootstrap.of_outcomes(answer_scores.outcomes(data.truth, answers, classes), data.drawn)


def _auc(question: Question, results: Sequence[Result], truth: Sequence[str]) -> float:
    if question.type == "yes-no":
        return answer_scores.auc([result.p_yes or 0.0 for result in results], [t == "yes" for t in truth])
    if question.type == "text":
        return np.nan
    probabilities = [result.label_probabilities or {} for result in results]
    return _mean(
        [answer_scores.auc([p.get(c, 0.0) for p in probabilities], [t == c for t in truth]) for c in question.labels]
    )


def _dp_yes(keys: Sequence[Key], results: Results, reference: Results) -> list[float]:
    pairs = [(results[key].p_yes, reference[key].p_yes) for key in keys]
    return [abs(a - b) for a, b in pairs if a is not None and b is not None]


def _mean(values: Sequence[float]) -> float:
    return float(answer_scores.nan_mean(np.array(values, np.float64)))


_SAME = 1e-3
"""Relative difference of FLOPs up to which two settings count as equally expensive."""


@dataclass(frozen=True, slots=True)
class Matched:
    """A family of contenders that differ in one number, at the FLOPs of another contender.

    `settings`: the one that costs as much, or the two between which `f1`, mean over questions, is interpolated linearly.
    `change`: of f1 against the other contender's, from paired samples. `outside`: 1 if every setting that ran costs more, -1
    if every one costs less: then the nearest one is reported unchanged, with its own `flops_share`.
    """

    family: str
    settings: tuple[str, ...]
    flops_share: float
    f1: float
    change: Estimate
    outside: int = 0


def matched(standings: Sequence[Standing], target: Standing) -> list[Matched]:
    """Every family whose keep policy is not the target's, in the order in which they ran. `all` has no number to vary."""
    own = keep_policy(target.name)
    families: dict[str, list[Standing]] = {}
    for one in standings:
        if keep_policy(one.name) not in (own, "all"):
            families.setdefault(family_of(one.name), []).append(one)
    return [_at(name, sorted(ran, key=lambda one: one.flops_share), target) for name, ran in families.items()]


def _at(family: str, ran: Sequence[Standing], target: Standing) -> Matched:
    wanted = target.flops_share
    nearest = min(ran, key=lambda one: abs(one.flops_share - wanted))
    below = [one for one in ran if one.flops_share < wanted]
    above = [one for one in ran if one.flops_share >= wanted]
    if abs(nearest.flops_share - wanted) <= _SAME * wanted or not (below and above):
        outside = 0 if abs(nearest.flops_share - wanted) <= _SAME * wanted else 1 if above else -1
        change = mean_change(nearest.f1_draws, target.f1_draws)
        return Matched(family, (nearest.name,), nearest.flops_share, nearest.f1, change, outside)
    low, high = below[-1], above[0]
    share = (wanted - low.flops_share) / (high.flops_share - low.flops_share)
    f1 = (1 - share) * low.f1 + share * high.f1
    drawn = (1 - share) * low.f1_draws + share * high.f1_draws
    return Matched(family, (low.name, high.name), wanted, f1, mean_change(drawn, target.f1_draws))
