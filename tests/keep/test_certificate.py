"""The default policy's promise: nothing that it drops is stale, and what it certifies it has not looked at."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.errors import MessageError
from codecflow.grid import TokenGrid
from codecflow.keep import KeepConfig, KeepState
from codecflow.messages import NO_BOUND, Signal
from tests.keep.random_pictures import (
    Picture,
    largest_cell_difference,
    mean_difference,
    overlapping_grid,
    signal_between,
)


@st.composite
def grids(draw: st.DrawFn) -> TokenGrid:
    """Token grids over pictures of any size: regular ones (neighbours overlap by a sample) and arbitrary boxes."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 70))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    if draw(st.booleans()):
        return TokenGrid.regular(min(rows, height), min(columns, width), width, height)
    return overlapping_grid(np.random.default_rng(draw(st.integers(0, 2**32))), width, height, rows, columns)


def next_picture(rng: np.random.Generator, picture: Picture) -> Picture:
    """`picture` with noise, a changed rectangle, brightness, or nothing changed; now and then a wholly new one."""
    height, width = picture.shape
    kind = rng.integers(0, 6)
    now = picture.astype(int)
    if kind <= 1:
        now += rng.integers(-2, 3, picture.shape) * (rng.random() < 0.7)
    elif kind <= 3:
        y, x = rng.integers(0, height), rng.integers(0, width)
        now[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] += int(rng.integers(-60, 61))
    elif kind == 4:
        now += int(rng.integers(-3, 4))
    else:
        now = rng.integers(0, 256, picture.shape)
    return np.clip(now, 0, 255).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(grids(), st.integers(0, 2**32), st.sampled_from([0.0, 1.5, 4.0, 20.0, 60.0]), st.sampled_from([3.0, 8.0, 255.0]))
def test_nothing_dropped_is_stale_and_nothing_certified_was_looked_at(
    grid: TokenGrid, seed: int, threshold: float, detail_threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    state = KeepState(
        grid, KeepConfig(threshold=threshold, detail_threshold=detail_threshold, period_s=Fraction(1_000_000))
    )
    shown = [rng.integers(0, 256, (grid.height, grid.width)).astype(np.uint8)]
    last_kept = [shown[0]] * grid.tokens
    for slot in range(6):
        between = [shown[-1]]
        for _ in range(int(rng.integers(1, 4)) if slot else 0):
            between.append(next_picture(rng, between[-1]))
        slack = rng.integers(0, 4, (-(-grid.height // 16), -(-grid.width // 16))) * int(rng.integers(0, 2))
        slack[rng.random(slack.shape) < 0.05] = NO_BOUND
        signal = signal_between(between, slack=slack.astype(np.uint8)) if rng.random() < 0.9 else None
        now = between[-1]
        shown.append(now)
        calls: list[int] = []

        def luma(now: Picture = now, calls: list[int] = calls) -> Picture:
            calls.append(1)
            return now

        decision = state.step(slot, signal, luma)
        assert len(calls) == (0 if decision.certified.all() else 1)
        assert not (decision.keep & decision.certified).any()
        assert not (decision.compared & decision.certified).any()
        for token in range(grid.tokens):
            mean = mean_difference(grid, token, now, last_kept[token])
            largest = largest_cell_difference(grid, token, now, last_kept[token])
            within = mean <= threshold and largest <= detail_threshold
            if decision.keep[token]:
                last_kept[token] = now
                assert slot == 0 or not within, f"token {token} was kept at {mean}, {largest} grey levels"
            else:
                assert within, f"token {token} is stale: {mean}, {largest} grey levels"


def test_a_signal_that_bounds_every_block_needs_no_pixels() -> None:
    """The certificate is of use: it must not be sound by never certifying."""
    grid = TokenGrid.regular(16, 16, 768, 432)
    state = KeepState(grid, KeepConfig())
    picture = np.random.default_rng(0).integers(0, 256, (432, 768)).astype(np.uint8)
    assert state.step(0, None, lambda: picture).keep.all()
    quiet = Signal(0, Fraction(1, 2), np.full((27, 48), 1, np.uint8), None, None)

    def no_pixels() -> Picture:
        raise AssertionError("pixels were asked for")

    for slot in range(1, 5):
        decision = state.step(slot, quiet, no_pixels)
        assert decision.certified.all()
        assert not decision.keep.any()


def test_pixels_are_compared_only_where_the_signal_cannot_tell_and_the_bound_restarts_there() -> None:
    grid = TokenGrid.regular(4, 4, 128, 128)
    state = KeepState(grid, KeepConfig())
    picture = np.full((128, 128), 100, np.uint8)
    state.step(0, None, lambda: picture)
    change = np.zeros((8, 8), np.uint8)
    change[:2, :2] = NO_BOUND  # the first token's blocks alone
    decision = state.step(1, Signal(1, Fraction(1, 2), change, None, None), lambda: picture)
    assert decision.compared.tolist() == [True] + [False] * 15
    assert not decision.keep.any()
    after = state.step(2, Signal(2, Fraction(1, 2), np.zeros((8, 8), np.uint8), None, None), lambda: picture)
    assert after.certified.all(), "the bound restarts at the measured difference, zero here"


def test_a_small_thing_in_a_token_is_kept_though_the_mean_hides_it() -> None:
    grid = TokenGrid.regular(1, 1, 28, 28)
    picture = np.full((28, 28), 100, np.uint8)
    spot = picture.copy()
    spot[9:14, 9:14] += 80  # 25 pixels x 80 / 784 = 2.6 on average, 31 in an 8x8 cell
    for detail_threshold, kept in ((8.0, True), (255.0, False)):
        state = KeepState(grid, KeepConfig(detail_threshold=detail_threshold))
        state.step(0, None, lambda: picture)
        assert bool(state.step(1, None, lambda: spot).keep[0]) is kept


@pytest.mark.parametrize(("threshold", "detail_threshold"), [(4.0, 255.0), (255.0, 4.0)])
def test_slow_drift_is_kept_as_soon_as_it_adds_up(threshold: float, detail_threshold: float) -> None:
    """Every step is below the threshold: comparing with the frame before would never keep it."""
    grid = TokenGrid.regular(2, 2, 64, 64)
    state = KeepState(grid, KeepConfig(threshold=threshold, detail_threshold=detail_threshold, period_s=Fraction(100)))
    kept = []
    for slot in range(12):
        picture = np.full((64, 64), 100 + slot, np.uint8)
        signal = Signal(slot, Fraction(1, 2), np.full((4, 4), 8, np.uint8), None, None)
        kept.append(bool(state.step(slot, signal, lambda picture=picture: picture).keep.all()))
    assert [slot for slot, all_kept in enumerate(kept) if all_kept] == [0, 5, 10]


def test_a_block_cut_by_the_pictures_edge_counts_the_samples_that_it_has() -> None:
    """One column of samples in the last block: a change of 4 grey levels there is just within, not 16 times over."""
    grid = TokenGrid(1, 1, 17, 16, np.array([[16, 0, 17, 16]], np.int32))
    state = KeepState(grid, KeepConfig(detail_threshold=255.0))
    picture = np.full((16, 17), 100, np.uint8)
    state.step(0, None, lambda: picture)
    assert state.step(
        1, Signal(1, Fraction(1, 2), np.full((1, 2), 32, np.uint8), None, None), lambda: picture
    ).certified.all()


def test_no_bound_is_no_number() -> None:
    """255 eighths would be 32 grey levels; the block changed by 200."""
    state = KeepState(TokenGrid.regular(1, 1, 16, 16), KeepConfig(threshold=60.0, detail_threshold=255.0))
    state.step(0, None, lambda: np.zeros((16, 16), np.uint8))
    no_bound = Signal(1, Fraction(1, 2), np.full((1, 1), NO_BOUND, np.uint8), None, None)
    assert state.step(1, no_bound, lambda: np.full((16, 16), 200, np.uint8)).keep.all()


def test_a_signal_of_another_picture_size_is_refused() -> None:
    state = KeepState(TokenGrid.regular(2, 2, 64, 64), KeepConfig())
    state.step(0, None, lambda: np.zeros((64, 64), np.uint8))
    with pytest.raises(MessageError, match="signal of 5x4 blocks does not fit a picture of 64x64"):
        state.step(1, Signal(1, Fraction(1, 2), np.zeros((5, 4), np.uint8), None, None), lambda: None)
