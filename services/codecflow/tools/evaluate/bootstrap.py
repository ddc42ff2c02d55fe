"""Uncertainty of scores, as their variation on other clips like these: the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import answer_scores

MIN_CLIPS = 10
"""From this many clips on, whole clips are resampled, because windows of one clip are correlated."""

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score and its 95 % bootstrap interval; nan if undefined, and both ends nan if the uncertainty is unknown."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(np.nan, np.nan, np.nan)


class Drawings:
    """Bootstrap samples of answers, each at a place: its clip and window.

    Answers of one place are drawn together, and with MIN_CLIPS clips or more, those of one clip. All contenders and
    questions share the same samples, so that they can be compared in pairs.
    """

    def __init__(self, places: Sequence[tuple[int, int]], resamples: int) -> None:
        self._by_clip = len({clip for clip, _ in places}) >= MIN_CLIPS
        units = sorted({self._unit(place) for place in places})
        self._known = {unit: at for at, unit in enumerate(units)}
        drawn = answer_scores.resamplings(len(units), resamples) if units else np.ones((resamples, 0), np.int64)
        self._drawn = np.concatenate([np.ones((1, len(units)), np.int64), drawn])

    def of(self, places: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        """(1 + resamples, answers): weights of the answers at `places`, a subset of all; in the first row all are 1."""
        return self._drawn[:, [self._known[self._unit(place)] for place in places]]

    def differ(self, places: Sequence[tuple[int, int]]) -> bool:
        """Whether the answers at `places` are not all drawn together. Otherwise all samples have the same score, and the
        uncertainty is unknown."""
        return len({self._unit(place) for place in places}) > 1

    def _unit(self, place: tuple[int, int]) -> tuple[int, int]:
        return (place[0], 0) if self._by_clip else place


def of_outcomes(counts: answer_scores.Counts, drawn: npt.NDArray[np.int64]) -> answer_scores.Floats:
    """(draws, 3): precision, recall, F1 of answers' outcomes (answers, classes, 3)."""
    answers, classes, kinds = counts.shape
    return answer_scores.precision_recall_f1(
        (drawn @ counts.reshape(answers, classes * kinds)).reshape(-1, classes, kinds)
    )


def of_means(values: answer_scores.Floats, drawn: npt.NDArray[np.int64]) -> answer_scores.Floats:
    """(draws,): the mean of one value per answer."""
    with np.errstate(invalid="ignore"):
        return np.asarray((drawn @ values) / drawn.sum(axis=1))


def estimate(samples: answer_scores.Floats) -> Estimate:
    """From (draws,) scores: the first is the score itself, the others its bootstrap samples, if any."""
    value = float(samples[0])
    return UNKNOWN if np.isnan(value) else Estimate(value, *answer_scores.interval(samples[1:]))
