"""The area under each token: blocks of the codec signal, and cells, which are compared individually.

A cell is about a quarter of a footprint wide and high (7x7 pixels of a 28-pixel token at the model's scale), and at least
one cell of the codec signal. Its sides are powers of two, and a cell begins at every half of one, from the picture's corner
on: so it consists of cells of the codec signal, and their bounds apply to it. A token's cells are those whose centre lies
within its footprint: they cover it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from codecflow.codec.tiles import TILE, cell_step, tile_areas, tile_sums
from codecflow.grid import TokenGrid
from codecflow.messages import BLOCK, NO_BOUND

CELLS = 4
"""Approximate number of cells along each axis of a footprint, if they did not overlap."""

UNBOUNDED = 1e9
"""A bound, in grey levels, above any threshold."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class BlockSums:
    """Sums of a block grid over the blocks that each box touches, through one integral image."""

    def __init__(self, boxes: Ints, columns: int, side: int = BLOCK) -> None:
        """`boxes`: (n, 4) half-open (x0, y0, x1, y1) in luma samples; an empty box touches nothing. A row has `columns`
        blocks of `side` samples."""
        x0, y0, x1, y1 = boxes.T
        left, top = x0 // side, y0 // side
        right = np.where(x1 > x0, -(-x1 // side), left)
        bottom = np.where(y1 > y0, -(-y1 // side), top)
        stride = columns + 1
        self._corners = np.stack(
            [bottom * stride + right, top * stride + left, top * stride + right, bottom * stride + left]
        )

    def __call__(self, grid: Ints) -> Ints:
        """(n,) int64 sums of a (rows, columns) int64 grid."""
        rows, columns = grid.shape
        integral = np.zeros((rows + 1, columns + 1), np.int64)
        integral[1:, 1:] = grid.cumsum(0).cumsum(1)
        corners = integral.ravel()[self._corners]
        return np.asarray(corners[0] + corners[1] - corners[2] - corners[3])


class Cells:
    """The cells of a picture, and which of them belong to each token.

    `step`: (across, down) samples from one cell to the next, half of its sides. `shape`: (rows, columns) of cells of a
    token, the same for all: if a token has fewer, its last ones are repeated. `share`: (cells of the picture,) what fraction
    of each lies in the picture. `seen`: what is left of a change of a quarter of a footprint's width and height (7x7 pixels
    at the model's scale) in the mean of the cell that shows most of it, wherever the change lies. Low in small pictures, in
    which a cell of the codec signal is larger than that.
    """

    def __init__(self, grid: TokenGrid) -> None:
        self.grid = grid
        self.block_rows, self.block_columns = -(-grid.height // BLOCK), -(-grid.width // BLOCK)
        boxes = grid.boxes.astype(np.int64)
        x0, y0, x1, y1 = boxes.T
        self.block_sums = BlockSums(boxes, self.block_columns)
        least = cell_step(grid.height, grid.width)
        self.step = half_side(x1 - x0, least), half_side(y1 - y0, least)
        self.seen = _seen(x1 - x0, self.step[0]) * _seen(y1 - y0, self.step[1])
        self._count = tuple(
            max(2, -(-length // step)) - 1 for length, step in zip((grid.width, grid.height), self.step, strict=True)
        )
        columns, across = _of_stretches(x0, x1, self.step[0], self._count[0])
        rows, down = _of_stretches(y0, y1, self.step[1], self._count[1])
        self.shape = rows.shape[1], columns.shape[1]
        self._index = rows[:, :, None] * self._count[0] + columns[:, None, :]
        weights = down[:, :, None] * across[:, None, :]
        self._weights = weights / weights.sum((1, 2), keepdims=True)
        self._over_blocks = (
            _over_blocks(self._count[1], self.step[1], self.block_rows, least),
            _over_blocks(self._count[0], self.step[0], self.block_columns, least).T,
        )
        self.share = self._means(tile_areas(grid.height, grid.width))

    def means(self, luma: npt.NDArray[np.uint8]) -> Floats:
        """(cells of the picture,) float64: sums of luma over each cell, divided by the samples of a whole one. luma:
        (height, width) uint8 of the coded picture."""
        if luma.shape != (self.grid.height, self.grid.width):
            raise ValueError(f"luma of {luma.shape[::-1]} does not fit a grid over {self.grid.width, self.grid.height}")
        return self._means(tile_sums(luma))

    def _means(self, tiles: Ints) -> Floats:
        (columns, rows), (across, down) = self._count, (step // TILE for step in self.step)
        whole = np.zeros(((rows + 1) * down, (columns + 1) * across), np.int64)
        height, width = min(len(tiles), len(whole)), min(tiles.shape[1], whole.shape[1])
        whole[:height, :width] = tiles[:height, :width]
        if across > 1 or down > 1:
            whole = whole.reshape(rows + 1, down, columns + 1, across).sum((1, 3))
        sums = whole[:-1] + whole[1:]
        sums = sums[:, :-1] + sums[:, 1:]
        return np.asarray(sums.ravel() / (4 * self.step[0] * self.step[1]))

    def bounds(self, change: npt.NDArray[np.uint8]) -> Floats:
        """(cells of the picture,) float64: upper bounds of |mean of the difference|, in grey levels."""
        of_blocks: Floats = change / 8.0
        of_blocks[change == NO_BOUND] = UNBOUNDED
        down, across = self._over_blocks
        return np.asarray((down @ of_blocks @ across).ravel())

    def of_tokens(self, values: Floats) -> Floats:
        """(tokens, rows, columns): values of each token's cells, from those of the picture."""
        return np.asarray(values[self._index])

    def token_means(self, values: Floats, tokens: Ints | None = None) -> Floats:
        """(n,): means over the tokens' cells, using every second one, which do not overlap, from (n, rows, columns)."""
        weights = self._weights if tokens is None else self._weights[tokens]
        return np.asarray((values * weights).sum((1, 2)))


def half_side(lengths: Ints, least: int) -> int:
    """Half of a cell's side along one axis, for footprints of these lengths: the power of two nearest to their mean / CELLS
    / 2, but at least `least`, that of the codec signal's cells."""
    wanted = float(lengths.mean()) / CELLS / 2
    below = 1 << max(0, math.floor(math.log2(wanted)))
    return max(least, below if wanted - below <= 2 * below - wanted else 2 * below)


def _seen(lengths: Ints, step: int) -> float:
    """What share of a cell's side, at least, a change of 1 / CELLS of footprints of these lengths covers."""
    changed, side = float(lengths.mean()) / CELLS, 2 * step
    return min(changed, side, (changed + side - step) / 2) / side


def _of_stretches(starts: Ints, ends: Ints, step: int, count: int) -> tuple[Ints, Floats]:
    """Which of `count` cells along an axis belong to each interval [start, end): (tokens, cells), the last one repeated if
    there are fewer; and 1.0 for every second cell, which do not overlap, 0.0 for the others."""
    first = np.clip(starts // step, 0, count - 1)
    last = np.clip(-(-ends // step) - 2, 0, count - 1)
    none = last < first  # it lies between two centres: use the nearer one
    nearest = np.clip((starts + ends) // (2 * step) - 1, 0, count - 1)
    first, last = np.where(none, nearest, first), np.where(none, nearest, last)
    places = np.arange(int((last - first).max()) + 1)
    return (
        np.minimum(first[:, None] + places, last[:, None]),
        ((places % 2 == 0) & (places <= (last - first)[:, None])).astype(np.float64),
    )


def _over_blocks(count: int, step: int, blocks: int, least: int) -> Floats:
    """(count, blocks): weight of each block's bound in that of each cell along an axis. A cell's side is a whole number of
    the signal's cells, each of which begins in one block, or beyond the picture, where nothing differs."""
    within = np.arange(0, 2 * step, 2 * least)
    of = np.zeros((count, blocks))
    for cell in range(count):
        for block in (cell * step + within) // BLOCK:
            if block < blocks:
                of[cell, block] += 1 / len(within)
    return of
