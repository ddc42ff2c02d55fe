"""Scores compared with values computed by hand, and with direct implementations of their definitions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecflow.tools.evaluate.answer_scores import (
    auc,
    interval,
    nan_mean,
    outcomes,
    precision_recall_f1,
    resamplings,
    word_f1,
)

answers = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30)


def scored(truth: str, said: str, classes: str) -> list[float]:
    return precision_recall_f1(outcomes(list(truth), list(said), list(classes)).sum(axis=0)).tolist()


def test_by_hand() -> None:
    # Four yes, three of them found; two false alarms.
    assert scored("yyyynnn", "yyynyyn", "y") == pytest.approx([3 / 5, 3 / 4, 6 / 9])
    # Of three labels: a 2 of 3 found and one false alarm, b 1 of 2 and one, c 1 of 1 and none.
    assert scored("aaabbc", "aababc", "abc") == pytest.approx(
        [(2 / 3 + 1 / 2 + 1) / 3, (2 / 3 + 1 / 2 + 1) / 3, (2 / 3 + 1 / 2 + 1) / 3]
    )
    # Nothing found, nothing predicted: F1 and recall are 0, precision is undefined.
    precision, recall, f1 = scored("yn", "nn", "y")
    assert math.isnan(precision)
    assert (recall, f1) == (0, 0)
    # There was nothing to find.
    assert all(map(math.isnan, scored("nn", "yn", "y")))


def definition(pairs: list[tuple[str, str]], label: str) -> float | None:
    """F1 as the harmonic mean of precision and recall; None if the label does not occur."""
    true = [t == label for t, _ in pairs]
    said = [s == label for _, s in pairs]
    both = sum(t and s for t, s in zip(true, said, strict=True))
    if not sum(true):
        return None
    if not both:
        return 0.0
    precision, recall = both / sum(said), both / sum(true)
    return 2 / (1 / precision + 1 / recall)


@given(answers)
def test_macro_f1_is_the_mean_of_harmonic_means(pairs: list[tuple[str, str]]) -> None:
    truth, said = "".join(t for t, _ in pairs), "".join(s for _, s in pairs)
    known = [f1 for f1 in (definition(pairs, label) for label in "abc") if f1 is not None]
    assert scored(truth, said, "abc")[2] == pytest.approx(sum(known) / len(known))


@given(answers)
def test_counts_of_several_sums_at_once(pairs: list[tuple[str, str]]) -> None:
    counts = outcomes([t for t, _ in pairs], [s for _, s in pairs], "abc")
    together = precision_recall_f1(np.stack([counts.sum(axis=0), counts[:1].sum(axis=0)]))
    one_by_one = [precision_recall_f1(counts.sum(axis=0)), precision_recall_f1(counts[:1].sum(axis=0))]
    np.testing.assert_array_equal(together, one_by_one)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_auc_counts_pairs_in_order(scores: list[tuple[int, bool]]) -> None:
    positive, negative = ([s for s, label in scores if label is wanted] for wanted in (True, False))
    found = auc([s for s, _ in scores], [label for _, label in scores])
    if not positive or not negative:
        assert math.isnan(found)
        return
    won = sum((p > n) + (p == n) / 2 for p, n in product(positive, negative))
    assert found == pytest.approx(won / (len(positive) * len(negative)))


def test_auc_by_hand() -> None:
    assert auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75  # scikit-learn's own example
    assert auc([1, 1, 1], [True, False, True]) == 0.5
    assert auc([0.9, 0.1], [False, True]) == 0.0


@pytest.mark.parametrize(
    ("truth", "said", "expected"),
    [
        ("A person walks.", "a person walks", 1.0),
        ("a person walks", "a person sits there", 2 * 2 / 7),
        ("the the", "the", 2 / 3),
        ("red", "blue", 0.0),
        ("?", "!", 1.0),
    ],
)
def test_words_in_common(truth: str, said: str, expected: float) -> None:
    assert word_f1(truth, said) == pytest.approx(expected)


@given(units=st.integers(1, 40), seed=st.integers(0, 3))
def test_resamplings_draw_as_many_and_the_same_again(units: int, seed: int) -> None:
    drawn = resamplings(units, 50, seed)
    assert (drawn.sum(axis=1) == units).all()
    np.testing.assert_array_equal(drawn, resamplings(units, 50, seed))


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    means = resamplings(400, 4000) @ values / 400
    low, high = interval(means)
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.03)
    assert interval(np.array([np.nan, 1.0, np.nan])) == (1.0, 1.0)
    assert all(map(math.isnan, interval(np.array([np.nan]))))


def test_a_mean_of_what_is_known() -> None:
    table = np.array([[1.0, np.nan], [3.0, np.nan]])
    assert nan_mean(table) == 2.0
    np.testing.assert_array_equal(nan_mean(table, axis=0), [2.0, np.nan])
