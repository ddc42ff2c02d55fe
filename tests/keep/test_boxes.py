"""Which cells belong to a token, their means and their bounds, against loops over tokens and pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codecflow.grid import TokenGrid
from codecflow.keep.boxes import Cells
from tests.keep.random_pictures import cell_changes, cell_means, overlapping_grid, steps


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 150), st.integers(1, 130)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.booleans(),
    st.integers(0, 2**32),
)
@example((64, 64), (4, 4), True, 1)  # footprints of whole cells
@example((61, 33), (4, 4), True, 1)  # the picture ends within a cell
@example((3, 2), (1, 1), True, 1)  # it is smaller than one
@example((1280, 727), (3, 5), True, 1)  # it is large
def test_means_and_bounds_are_those_of_a_plain_loop(
    size: tuple[int, int], shape: tuple[int, int], regular: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    width, height = size
    grid = TokenGrid.regular(*shape, *size) if regular else overlapping_grid(rng, width, height, *shape)
    cells = Cells(grid)
    assert cells.step == steps(grid)
    now = rng.integers(0, 256, (height, width)).astype(np.uint8)
    near = np.clip(now + rng.integers(-9, 10, now.shape), 0, 255).astype(np.uint8)
    means = cells.of_tokens(cells.means(near)) - cells.of_tokens(cells.means(now))
    assert means.shape == (grid.tokens, *cells.shape)
    change = np.minimum(cell_changes(near, now), 254).astype(np.uint8)
    bounds = cells.of_tokens(cells.bounds(change))
    assert (np.abs(means) <= bounds + 1e-9).all()
    difference = near.astype(float) - now
    for token in range(grid.tokens):
        plain = cell_means(grid, token, difference)
        ours = means[token, : plain.shape[0], : plain.shape[1]]
        assert np.allclose(ours, plain)
        assert set(np.round(means[token].ravel(), 9)) == set(np.round(plain.ravel(), 9)), "no others"
        assert cells.token_means(means)[token] == pytest.approx(plain[::2, ::2].mean())


def test_every_sample_counts_in_the_token_that_it_lies_under() -> None:
    """A change the size of a cell, anywhere: every edge of a footprint is covered by cells."""
    grid = TokenGrid.regular(4, 4, 90, 70)
    cells = Cells(grid)
    for y in range(70):
        for x in range(0, 90, 7):
            spot = np.zeros((70, 90), np.uint8)
            spot[y, x] = 255
            under = [t for t, (x0, y0, x1, y1) in enumerate(grid.boxes) if x0 <= x < x1 and y0 <= y < y1]
            assert (cells.of_tokens(cells.means(spot))[under] > 0).any((1, 2)).all()


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Cells(TokenGrid.regular(2, 2, 64, 48)).means(np.zeros((64, 48), np.uint8))


@pytest.mark.parametrize("size", [(320, 240), (352, 288), (640, 360), (768, 432), (1920, 1080)])
def test_what_a_cell_shows_of_a_change_wherever_it_lies(size: tuple[int, int]) -> None:
    """A change of a quarter of a footprint, moved over the picture's middle in hundredths of a sample."""
    cells = Cells(TokenGrid.regular(16, 16, *size))
    shown = 1.0
    for length, step in zip(size, cells.step, strict=True):
        changed, side = length / 16 / 4, 2 * step
        starts = np.arange(0, step, 0.01)[:, None]
        begins = np.arange(-4, 40)[None] * step
        overlap = np.minimum(starts + changed, begins + side) - np.maximum(starts, begins)
        shown *= overlap.max(1).min() / side
    assert cells.seen == pytest.approx(shown, abs=0.01)  # footprints are whole samples
