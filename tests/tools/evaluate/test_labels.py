"""The right answer of a window is that of its newest stride."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecflow.tools.evaluate.spec import Interval, label

spans = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 60)), max_size=4)


def intervals(*spans: tuple[float, float], answer: str = "yes") -> list[Interval]:
    return [Interval(start, end, answer, 2) for start, end in spans]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], "no"),
        ([(0, 8)], "no"),
        ([(16, 30)], "no"),
        ([(12, 30)], "yes"),  # half of it, exactly
        ([(12.1, 30)], None),
        ([(15.9, 30)], None),
        ([(8, 10), (14, 16)], "yes"),
        ([(8, 11), (9, 11.5)], None),  # overlapping ones count once
        ([(0, 100)], "yes"),
    ],
)
def test_yes_no_over_eight_seconds(spans: list[tuple[float, float]], expected: str | None) -> None:
    assert label("yes-no", intervals(*spans), 8, 16) == expected


def test_decimal_times_do_not_miss_half_of_a_stride() -> None:
    assert label("yes-no", intervals((0.3, 0.4)), 0.2, 0.4) == "yes"
    third = float(Fraction(1, 3))
    assert label("yes-no", intervals((third / 2, third)), 0, third) == "yes"


def test_a_choice_is_the_label_of_half_the_stride() -> None:
    both = intervals((0, 5), answer="empty") + intervals((5, 20), answer="a person")
    assert label("choice", both, 0, 8) == "empty"
    assert label("choice", both, 8, 16) == "a person"
    assert label("choice", both, 2, 8) is None  # half each
    assert label("choice", both, 24, 32) is None  # outside all intervals
    assert label("text", both, 24, 32) is None


def test_where_a_row_says_no_only_what_rows_cover_is_scored() -> None:
    both = intervals((4, 9)) + intervals((0, 3), (10, 11), answer="no")
    assert [label("yes-no", both, start, start + 2) for start in range(0, 16, 2)] == [
        "no",
        "no",  # half of it, exactly
        "yes",
        "yes",
        "yes",  # half
        "no",
        None,
        None,
    ]
    assert label("yes-no", both, 8, 11) is None  # a third each
    assert label("yes-no", intervals((0, 3), answer="no"), 4, 6) is None


@given(spans=spans, start=st.integers(0, 12), stride=st.integers(1, 8))
def test_yes_no_as_counted_in_tenths_of_a_second(spans: list[tuple[int, int]], start: int, stride: int) -> None:
    given = intervals(*((a / 10, (a + n) / 10) for a, n in spans))
    covered = sum(any(a <= t < a + n for a, n in spans) for t in range(10 * start, 10 * (start + stride)))
    expected = "yes" if covered >= 5 * stride else "no" if not covered else None
    assert label("yes-no", given, start, start + stride) == expected


@given(spans=spans, start=st.integers(0, 12))
def test_order_and_splitting_of_intervals_change_nothing(spans: list[tuple[int, int]], start: int) -> None:
    whole = intervals(*((a / 10, (a + n) / 10) for a, n in spans))
    halves = [
        part
        for one in reversed(whole)
        for middle in [(one.start_s + one.end_s) / 2]
        for part in intervals((middle, one.end_s), (one.start_s, middle))
    ]
    assert label("yes-no", whole, start, start + 4) == label("yes-no", halves, start, start + 4)
