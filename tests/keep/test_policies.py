"""What each policy keeps, on signals and pictures small enough to verify by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from codecflow.grid import TokenGrid
from codecflow.keep import POLICY_NAMES, KeepConfig, KeepState
from codecflow.messages import Signal
from tests.keep.random_pictures import step

STILL = np.zeros((64, 64), np.uint8)


def motion_signal(*moving: tuple[int, int, int], intra: tuple[tuple[int, int], ...] = ()) -> Signal:
    """A signal of 4x4 blocks with vectors at (row, column, quarter pixels)."""
    motion, intra_grid = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    for row, column, length in moving:
        motion[row, column] = length
    for row, column in intra:
        intra_grid[row, column] = 1
    return Signal(0, Fraction(1, 2), np.zeros((4, 4), np.uint8), motion, intra_grid)


def no_pixels() -> np.ndarray:
    """This policy does not look at pixels, but requires them."""
    return np.zeros((0, 0), np.uint8)


def test_motion_is_the_union_since_the_anchor() -> None:
    state = KeepState(TokenGrid.regular(2, 2, 64, 64), KeepConfig(policy="motion", period_s=Fraction(2)))

    def decide(slot: int, signal: Signal | None) -> list[bool]:
        return step(state, slot, signal and replace(signal, tick=slot, previous=slot - 1), no_pixels).keep.tolist()

    assert decide(0, None) == [True] * 4
    assert decide(1, motion_signal((0, 0, 1))) == [False] * 4, "a quarter of a pixel is below tau"
    assert decide(2, motion_signal((0, 0, 2))) == [True, False, False, False]
    assert decide(3, motion_signal(intra=((2, 3),))) == [True, False, False, True], "a union never forgets"
    assert decide(4, motion_signal((0, 3, 9))) == [True] * 4
    assert decide(5, motion_signal()) == [False] * 4, "the count begins again at the anchor"


def test_motion_touches_every_token_whose_footprint_a_block_overlaps() -> None:
    """36 samples per token: block (2, 2), samples 32 to 47, lies under all four."""
    state = KeepState(TokenGrid.regular(2, 2, 72, 72), KeepConfig(policy="motion"))
    state.step(0, no_pixels)
    motion = np.zeros((5, 5), np.uint8)
    motion[2, 2] = 4
    still = np.zeros((5, 5), np.uint8)
    assert step(state, 1, Signal(0, Fraction(1, 2), still, motion, still), no_pixels).keep.all()


@pytest.mark.parametrize("signal", [None, Signal(0, Fraction(1, 2), np.zeros((4, 4), np.uint8), None, None)])
def test_motion_keeps_where_no_vectors_are_known(signal: Signal | None) -> None:
    state = KeepState(TokenGrid.regular(2, 2, 64, 64), KeepConfig(policy="motion"))
    state.step(0, no_pixels)
    assert step(state, 1, signal, no_pixels).keep.all()


def test_all_keeps_all_and_still_names_the_anchors() -> None:
    state = KeepState(TokenGrid.regular(2, 2, 64, 64), KeepConfig(policy="all", period_s=Fraction(1)))
    decisions = [step(state, slot, motion_signal(), no_pixels) for slot in range(4)]
    assert all(decision.keep.all() for decision in decisions)
    assert [decision.anchor for decision in decisions] == [True, False, True, False]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_the_first_frame_is_kept_whole_wherever_the_stream_is_joined(policy: str) -> None:
    state = KeepState(TokenGrid.regular(2, 2, 64, 64), KeepConfig(policy=policy))  # type: ignore[arg-type]
    decision = state.step(13, lambda: STILL)
    assert decision.keep.all()
    assert decision.anchor


def test_replenish_forgets_what_moved_and_went_back() -> None:
    """Unlike the union of vectors: a token is compared with what the model last saw of it."""
    state = KeepState(TokenGrid.regular(2, 2, 64, 64), KeepConfig())
    moved = STILL.copy()
    moved[:32, :32] = 50
    kept = [state.step(slot, lambda p=p: p).keep.sum() for slot, p in enumerate([STILL, moved, moved, STILL, STILL])]
    assert kept == [4, 1, 0, 1, 0]


def test_frames_must_be_in_order_and_of_the_grids_size() -> None:
    state = KeepState(TokenGrid.regular(2, 2, 64, 64), KeepConfig())
    state.step(3, lambda: STILL)
    with pytest.raises(ValueError, match="slot 3 does not follow slot 3"):
        state.step(3, lambda: STILL)
    with pytest.raises(ValueError, match="does not fit"):
        state.step(4, lambda: STILL[:32])
