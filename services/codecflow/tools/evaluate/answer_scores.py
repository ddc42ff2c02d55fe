"""Scores of answers against labels: numpy only, no knowledge of video.

Terms as in scikit-learn. A yes-no question has one class of interest, yes; a choice has one for each label, averaged
without weights (macro) over the labels that occur. An undefined score (no such label, no answers) is nan, never 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

TP, FP, FN = range(3)


def outcomes(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> Counts:
    """(windows, classes, 3) int64: true positive, false positive, false negative."""
    right = np.array([[t == c for c in classes] for t in truth], bool).reshape(len(truth), len(classes))
    found = np.array([[s == c for c in classes] for s in predicted], bool).reshape(len(predicted), len(classes))
    return np.stack([right & found, ~right & found, right & ~found], axis=-1).astype(np.int64)


def precision_recall_f1(counts: npt.NDArray[np.number]) -> Floats:
    """(..., 3): precision, recall and F1 of counts (..., classes, 3) summed over windows, averaged over classes.

    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN). Classes that are not the label of any
    window do not count; without any, all three are nan. Precision is nan for a class that was never predicted.
    """
    tp, fp, fn = (counts[..., kind].astype(np.float64) for kind in (TP, FP, FN))
    occurs = tp + fn > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = np.stack([tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn)], axis=-1)
    return nan_mean(np.where(occurs[..., None], scores, np.nan), axis=-2)


def auc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under the ROC curve: how often a positive has a higher score than a negative, ties half. nan without both."""
    values, labels = np.asarray(scores, np.float64), np.asarray(positive, bool)
    n = int(labels.sum())
    if n in (0, len(labels)):
        return float("nan")
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(size) - (size - 1) / 2)[place]  # equal scores share their mean rank, counted from 1
    return float((ranks[labels].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))


def word_f1(truth: str, predicted: str) -> float:
    """Overlap of the words of two texts: F1 over words as a bag, in lower case. Like SQuAD's F1 of free answers, except that
    articles count."""
    expected, found = _words(truth), _words(predicted)
    common = sum(min(expected.count(word), found.count(word)) for word in set(expected))
    return 2 * common / (len(expected) + len(found)) if common else float(expected == found)


def resamplings(units: int, times: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """(times, units) int64: how often each unit is drawn in each of `times` bootstrap samples. Same seed, same samples."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), times)


def interval(samples: Floats, share: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of (times,) samples that contains `share` of them; nan ones do not count."""
    known = samples[~np.isnan(samples)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def nan_mean(values: Floats, axis: int | None = None) -> Floats:
    """The mean of the known values; nan, without a warning, if there are none."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count)


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()
