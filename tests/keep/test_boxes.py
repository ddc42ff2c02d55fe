"""Patches and sums over cells, against loops over tokens and pixels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codecflow.grid import TokenGrid
from codecflow.keep.boxes import Footprints
from tests.keep.random_pictures import cell_sides, overlapping_grid

Array = np.ndarray


def plain_patch(grid: TokenGrid, token: int, luma: Array, like: Array) -> Array:
    """The footprint in a patch of zeros: where `like` has it, its corner in the same place of a cell as in the picture."""
    width, height = cell_sides(grid)
    x0, y0, x1, y1 = grid.boxes[token].tolist()
    places = product(range(y0 % height, like.shape[0], height), range(x0 % width, like.shape[1], width))
    for y, x in places:
        patch = np.zeros_like(like)
        if (place := patch[y : y + y1 - y0, x : x + x1 - x0]).shape == (y1 - y0, x1 - x0):
            place[:] = luma[y0:y1, x0:x1]
            if (patch == like).all():
                return patch
    raise AssertionError(f"token {token}: its footprint is nowhere in its patch")


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 70)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.booleans(),
    st.integers(0, 2**32),
)
@example((64, 64), (4, 4), True, 1)  # footprints of whole cells: nothing is beyond them
@example((61, 33), (4, 4), True, 1)  # the picture ends within a cell
def test_patches_and_differences_are_those_of_a_plain_loop(
    size: tuple[int, int], shape: tuple[int, int], regular: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    width, height = size
    grid = TokenGrid.regular(*shape, *size) if regular else overlapping_grid(rng, width, height, *shape)
    footprints = Footprints(grid)
    tokens = np.flatnonzero(rng.random(grid.tokens) < 0.7)
    # Never 0, so that where a footprint lies in its patch cannot be mistaken.
    now, then = (rng.integers(1, 256, (height, width)).astype(np.uint8) for _ in range(2))
    patches = footprints.patches(now, tokens), footprints.patches(then, tokens)
    sums = footprints.cell_differences(*patches)
    assert sums.dtype == np.int64
    assert sums.shape == (len(tokens), *footprints.cell_shape)
    cell_width, cell_height = footprints.cell
    for token, ours, old, cells in zip(tokens, *patches, sums, strict=True):
        difference = np.abs(
            plain_patch(grid, token, now, ours).astype(int) - plain_patch(grid, token, then, old).astype(int)
        )
        for row, column in np.ndindex(cells.shape):
            cell = np.s_[row * cell_height : (row + 1) * cell_height, column * cell_width : (column + 1) * cell_width]
            assert cells[row, column] == difference[cell].sum()


@pytest.mark.parametrize("side", [8192, 8000])
def test_sums_hold_the_largest_picture(side: int) -> None:
    """Cells of 2048 pixels, whose rows add up to more than 16 bits hold."""
    footprints = Footprints(TokenGrid.regular(1, 1, side, side))
    white, black = (footprints.patches(np.full((side, side), level, np.uint8), np.array([0])) for level in (255, 0))
    assert int(footprints.cell_differences(white, black).sum()) == 255 * side * side


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Footprints(TokenGrid.regular(2, 2, 64, 48)).patches(np.zeros((64, 48), np.uint8), np.array([0]))
