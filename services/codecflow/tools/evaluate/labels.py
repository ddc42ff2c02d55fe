"""What the right answer to a question is in one window: that of its newest stride."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .spec import Interval


def label(kind: str, intervals: Sequence[Interval], start_s: float, end_s: float) -> str | None:
    """The right answer over the stride [start_s, end_s), or None: not to be scored.

    The answer whose intervals cover at least half of the stride. yes-no without intervals of the answer no: no, where they
    cover nothing of it. Left out are all other strides, and those of which two answers cover half each.
    """
    stride = end_s - start_s
    covered: dict[str, float] = defaultdict(float)
    for answer in {interval.answer for interval in intervals}:
        covered[answer] = _covered([one for one in intervals if one.answer == answer], start_s, end_s)
    # Times are decimal, strides are fractions: half of a stride is not to be missed by a rounding error.
    half = stride / 2 - 1e-9
    right = [answer for answer, seconds in covered.items() if seconds >= half]
    if len(right) == 1:
        return right[0]
    if kind == "yes-no" and "no" not in covered and not any(seconds > 1e-9 for seconds in covered.values()):
        return "no"
    return None


def _covered(intervals: Sequence[Interval], start_s: float, end_s: float) -> float:
    """Seconds of [start_s, end_s) within any of `intervals`, which may overlap."""
    total, reached = 0.0, start_s
    for one in sorted(intervals, key=lambda interval: interval.start_s):
        begin, end = max(one.start_s, reached), min(one.end_s, end_s)
        if end > begin:
            total, reached = total + end - begin, end
    return total
