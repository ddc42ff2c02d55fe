"""Staleness as the benchmark reports it, on pictures in which it is known."""

from __future__ import annotations

import numpy as np
import pytest

from codecflow.tools.bench.staleness import LastKept, Pixels

SIDE, TOKENS = 112, 4
ALL = np.ones(TOKENS * TOKENS, bool)


def scene() -> Pixels:
    return np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.int32) // 2 + 40


@pytest.mark.parametrize(("levels", "stale"), [(16, 0), (-16, 0), (17, 1), (-17, 1)])
def test_7x7_pixels_that_change_by_more_than_16_levels_make_their_token_stale(levels: int, stale: int) -> None:
    last = LastKept(TOKENS, SIDE)
    assert last.stale(scene(), ALL) == (0, 0)
    now = scene()
    now[30:37, 60:67] += levels
    assert last.stale(now, ~ALL) == (stale, 0)
    keep = ~ALL
    keep[6] = True  # second row, third column
    assert last.stale(now, keep) == (0, 0)
    assert last.stale(now, ~ALL) == (0, 0), "it was kept with the change"


def test_noise_is_not_stale() -> None:
    last, random = LastKept(TOKENS, SIDE), np.random.default_rng(5)
    last.stale(scene(), ALL)
    for _ in range(4):
        assert last.stale(scene() + random.normal(0, 16, (SIDE, SIDE)).astype(np.int32), ~ALL) == (0, 0)


def test_what_a_gain_and_an_offset_explain_is_counted_separately() -> None:
    """Tokens from different frames: each is compared in its own frame's exposure."""
    last = LastKept(TOKENS, SIDE)
    last.stale(scene(), ALL)
    darker = scene() * 7 // 8 - 16  # by 21 to 35 levels
    first = ALL.copy()
    first[: 2 * TOKENS] = False
    assert last.stale(darker, first) == (0, 2 * TOKENS)
    assert last.stale(scene(), ~ALL) == (0, 2 * TOKENS), (
        "the upper half is from the first frame, the lower from the second"
    )
    now = scene()
    now[8:24, 8:24] += 60
    assert last.stale(now, ~ALL) == (1, 2 * TOKENS)
