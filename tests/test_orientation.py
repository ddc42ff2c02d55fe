"""Orientations compared with Pillow's, and tokens of a rotated picture compared with the samples that they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from codecflow.grid import TokenGrid
from codecflow.orientation import ORIENTATIONS, inverse, nearest, shown_size, upright

sizes = st.integers(1, 40)
orientations = st.sampled_from(ORIENTATIONS)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_are_turned_as_pillow_turns_them(orientation: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    image = Image.fromarray(picture)
    image.getexif()[0x0112] = orientation
    theirs = np.asarray(ImageOps.exif_transpose(image))
    ours = upright(picture, orientation)
    assert np.array_equal(ours, theirs)
    assert ours.shape[1::-1] == shown_size(11, 7, orientation)
    assert np.array_equal(upright(ours, inverse(orientation)), picture)


@given(orientations, sizes, sizes, st.integers(1, 6), st.integers(1, 6))
def test_a_token_of_a_turned_picture_looks_at_its_own_samples(
    orientation: int, width: int, height: int, rows: int, columns: int
) -> None:
    coded = np.arange(width * height).reshape(height, width)
    shown = upright(coded, orientation)
    rows, columns = min(rows, shown.shape[0]), min(columns, shown.shape[1])
    over_shown = TokenGrid.regular(rows, columns, shown.shape[1], shown.shape[0])
    over_coded = over_shown.oriented(orientation)
    assert (over_coded.width, over_coded.height) == (width, height)
    assert (over_coded.rows, over_coded.columns) == (rows, columns)
    for (a0, b0, a1, b1), (x0, y0, x1, y1) in zip(over_shown.boxes.tolist(), over_coded.boxes.tolist(), strict=True):
        assert set(shown[b0:b1, a0:a1].flat) == set(coded[y0:y1, x0:x1].flat)


@given(orientations, st.floats(-44, 44), st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_transform_finds_the_nearest_orientation(
    orientation: int, degrees: float, across: float, down: float
) -> None:
    """A picture's corners identify its orientation; with a small further rotation and a scale it is still the same."""
    coded = np.zeros((3, 3), int)
    coded[1, 2], coded[2, 1] = 1, 2  # along the x axis and the y axis
    shown = upright(coded, orientation)
    axes = [np.argwhere(shown == axis)[0][::-1] - 1 for axis in (1, 2)]
    turn = math.radians(degrees)
    turned = [
        (scale * (x * math.cos(turn) - y * math.sin(turn)), scale * (x * math.sin(turn) + y * math.cos(turn)))
        for scale, (x, y) in zip((across, down), axes, strict=True)
    ]
    found = nearest((*turned[0], *turned[1]))
    assert found.orientation == orientation
    assert found.off == pytest.approx(abs(degrees), abs=0.02)


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 1, 0), (math.inf, 0, 0, 1), (math.nan, 0, 0, 1)])
def test_a_transform_that_shows_nothing_is_ignored(matrix: tuple[float, ...]) -> None:
    assert nearest(matrix).orientation == 1
