"""Rotated or mirrored clips: tokens are kept where the shown picture changes, and drawings are upright."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecflow.grid import TokenGrid
from codecflow.keep import KeepConfig, KeepDecision, KeepState
from codecflow.messages import BLOCK, Signal
from codecflow.orientation import ORIENTATIONS, shown_size, upright
from codecflow.tools.bench.clip_masks import masks_of_clip
from codecflow.tools.bench.explain import Example
from codecflow.tools.bench.sampling import sampled_frames
from tests.codec.clips import scene
from tests.codec.turned import COLUMNS, MATRICES, ROWS, changed, matrix_clip


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_tokens_are_kept_where_the_shown_picture_changes(orientation: int, tmp_path: Path) -> None:
    clip = matrix_clip(tmp_path / "clip", MATRICES[orientation], orientation, pictures=40)
    config = KeepConfig(fps=Fraction(2), period_s=Fraction(60))
    state: KeepState | None = None
    far = 0
    for frame in sampled_frames(clip, Fraction(2)):
        picture = frame.picture
        assert picture.size == (96, 64)
        index = round(frame.time_s * 10)
        assert np.abs(picture.rgb().astype(int) - scene(index, 96, 64)).mean() < 12
        grid = TokenGrid.regular(ROWS, COLUMNS, *picture.size).oriented(picture.orientation)
        state = state or KeepState(grid, config)
        decision = frame.decide(state)
        if not decision.anchor:
            assert changed(index)
            assert decision.keep[changed(index)].all()
            far += int((~decision.keep).sum())
    assert far > 7 * ROWS * COLUMNS / 3, "and not all of it is kept"


@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_for_the_models_side(orientation: int, tmp_path: Path) -> None:
    clip = matrix_clip(tmp_path / "clip", MATRICES[orientation], orientation, pictures=20)
    masks = masks_of_clip("clip", clip, partial(TokenGrid.regular, ROWS, COLUMNS), Fraction(2), Fraction(60), 2.0)
    assert masks.pictures.shape == (4, 64, 96, 3)
    for number in range(1, 4):
        assert masks.keep["replenish"][number][changed(5 * number)].all()


@given(st.sampled_from(ORIENTATIONS), st.integers(1, 70), st.integers(1, 70))
def test_blocks_are_drawn_over_the_samples_that_they_are_of(orientation: int, width: int, height: int) -> None:
    """The last block extends beyond the coded picture, so beyond the shown one too, on the corresponding side."""
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    values = np.arange(rows * columns).reshape(rows, columns)
    painted = values.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
    shown = upright(painted, orientation)
    grid = TokenGrid.regular(1, 1, *shown_size(width, height, orientation))
    none = np.zeros(1, bool)
    example = Example(
        0.0,
        np.zeros((*shown.shape, 3), np.uint8),
        Signal(0, Fraction(1, 2), np.zeros((rows, columns), np.uint8), None, None),
        KeepDecision(none, none, none, none, none),
        grid,
        orientation,
    )
    turned, (left, right, bottom, top) = example.blocks(values)
    whole = turned.repeat(BLOCK, 0).repeat(BLOCK, 1)
    assert whole.shape == (bottom - top, right - left)
    assert np.array_equal(whole[-top : shown.shape[0] - top, -left : shown.shape[1] - left], shown)
