"""Sums over the footprints of tokens, in blocks of the codec signal and in pixels, exact in integers.

For small things a footprint is looked at in cells: tiles of the picture, about a quarter of a footprint wide and high (7x7
pixels of a 28-pixel token at the model's scale). Their sides are powers of two and they tile the picture from its corner, as
blocks do, so that a cell lies in one block, or blocks in one cell: then a block's change says most about a cell's.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from codecflow.grid import TokenGrid
from codecflow.messages import BLOCK

CELLS = 4
"""Cells along each axis of a footprint, about."""

_CACHED = 1 << 18
"""Bytes of patches that are compared at a time, so that they stay in a core's cache."""

Ints = npt.NDArray[np.int64]


class BlockSums:
    """Sums of a block grid over the blocks that each box touches, through one integral image."""

    def __init__(self, boxes: Ints, columns: int, side: int = BLOCK) -> None:
        """`boxes`: (n, 4) half-open (x0, y0, x1, y1) in luma samples; an empty box touches nothing. `columns` blocks of
        `side` samples to a row."""
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


class Footprints:
    """The footprints of a token grid, their cells, and the pixels under them.

    Footprints may overlap: pixels are handled a token at a time, as patches, never as one composite picture. A cell at a
    footprint's edge is cut by it. `areas`: (tokens,) samples. `cell`: (width, height) of a whole one. `cell_shape`: cells of
    a token, (rows, columns), the same for all; those that a token lacks are empty.
    """

    def __init__(self, grid: TokenGrid) -> None:
        self.grid = grid
        self.block_rows, self.block_columns = -(-grid.height // BLOCK), -(-grid.width // BLOCK)
        self.block_pixels = np.outer(*(_lengths(n, count, BLOCK) for n, count in self._sides(1)))
        self.quarter_pixels = np.outer(*(_lengths(n, count, BLOCK // 2) for n, count in self._sides(2)))
        boxes = grid.boxes.astype(np.int64)
        x0, y0, x1, y1 = boxes.T
        self.areas = (x1 - x0) * (y1 - y0)
        self.cell = cell_side(x1 - x0), cell_side(y1 - y0)
        x_edges, self._left = _cell_edges(x0, x1, self.cell[0], grid.width)
        y_edges, self._top = _cell_edges(y0, y1, self.cell[1], grid.height)
        self.cell_shape = y_edges.shape[1] - 1, x_edges.shape[1] - 1
        height, width = self.cell_shape[0] * self.cell[1], self.cell_shape[1] * self.cell[0]
        self._patch = height, width
        self._within_rows = _within(self._top, y0, y1, height)
        self._within_columns = _within(self._left, x0, x1, width)
        self._beyond = max(0, int(self._left.max()) + width - grid.width)
        cell_boxes = np.broadcast_arrays(
            x_edges[:, None, :-1], y_edges[:, :-1, None], x_edges[:, None, 1:], y_edges[:, 1:, None]
        )
        of_cells = np.stack(cell_boxes, axis=-1).reshape(-1, 4)
        self.block_sums = BlockSums(boxes, self.block_columns)
        self.cell_block_sums = BlockSums(of_cells, self.block_columns)
        self.quarter_sums = BlockSums(boxes, 2 * self.block_columns, BLOCK // 2)
        self.cell_quarter_sums = BlockSums(of_cells, 2 * self.block_columns, BLOCK // 2)

    def _sides(self, parts: int) -> list[tuple[int, int]]:
        """(samples, blocks or their parts) of the picture, down and across."""
        return [(self.grid.height, parts * self.block_rows), (self.grid.width, parts * self.block_columns)]

    def patches(self, luma: npt.NDArray[np.uint8], tokens: Ints) -> npt.NDArray[np.uint8]:
        """(n, height, width) uint8 pixels under `tokens`, from the corner of each one's first cell on, zero beyond the
        footprint. luma: (height, width) uint8 of the coded picture."""
        if luma.shape != (self.grid.height, self.grid.width):
            raise ValueError(f"luma of {luma.shape[::-1]} does not fit a grid over {self.grid.width, self.grid.height}")
        height, width = self._patch
        if self._beyond:  # the picture ends within a cell
            luma = np.pad(luma, ((0, 0), (0, self._beyond)))
        # One gather of rows, without the interpreter's lock. Rows below the picture are not within a footprint.
        rows = np.minimum(self._top[tokens, None] + np.arange(height), self.grid.height - 1)
        patches = np.asarray(sliding_window_view(luma, width, axis=1)[rows, self._left[tokens, None]])
        for within in (self._within_rows[tokens][:, :, None], self._within_columns[tokens][:, None, :]):
            if not within.all():
                patches &= within
        return patches

    def cell_differences(self, now: npt.NDArray[np.uint8], then: npt.NDArray[np.uint8]) -> Ints:
        """(n, *cell_shape) int64 sums of |now - then| over the cells of two (n, height, width) sets of patches."""
        (rows, columns), (cell_width, cell_height) = self.cell_shape, self.cell
        # Rows of a cell first, in the smallest type that holds their sum: most of the time goes into moving memory.
        small = np.uint16 if 255 * cell_height < 1 << 16 else np.uint32
        sums = np.empty((len(now), rows, columns), np.int64)
        step = max(1, _CACHED // (self._patch[0] * self._patch[1]))
        for start in range(0, len(now), step):
            part = slice(start, start + step)
            difference = np.maximum(now[part], then[part])
            difference -= np.minimum(now[part], then[part])
            of_rows = difference.reshape(-1, rows, cell_height, columns * cell_width).sum(2, dtype=small)
            of_rows.reshape(-1, rows, columns, cell_width).sum(3, dtype=np.int64, out=sums[part])
        return sums


def cell_side(lengths: Ints) -> int:
    """Side of a cell along one axis, for footprints of these lengths: the power of two nearest to their mean / CELLS."""
    wanted = float(lengths.mean()) / CELLS
    below = 1 << max(0, math.floor(math.log2(wanted)))
    return below if wanted - below <= 2 * below - wanted else 2 * below


def _cell_edges(starts: Ints, ends: Ints, side: int, length: int) -> tuple[Ints, Ints]:
    """The cells that each stretch [start, end) touches: their (tokens, cells + 1) edges, cut to it, and where the first
    begins. As many for all: those that a stretch lacks are empty, behind it or, at the end of the picture, before it."""
    first = starts // side
    count = int((-(-ends // side) - first).max())
    first = np.minimum(first, max(0, -(-length // side) - count))
    edges = (first[:, None] + np.arange(count + 1)) * side
    cut: Ints = np.clip(edges, starts[:, None], ends[:, None])
    return cut, first * side


def _within(origins: Ints, starts: Ints, ends: Ints, length: int) -> npt.NDArray[np.uint8]:
    """(tokens, length) uint8: 255 where the place at origin + index is within [start, end), else 0."""
    places = origins[:, None] + np.arange(length)
    return np.where((places >= starts[:, None]) & (places < ends[:, None]), np.uint8(255), np.uint8(0))


def _lengths(length: int, count: int, side: int) -> Ints:
    """Samples of the picture in each of `count` pieces of `side` samples along one axis: the last may be cut by the
    picture's edge, or lie behind it."""
    return np.clip(length - np.arange(count) * side, 0, side)
