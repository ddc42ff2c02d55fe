"""Sums over the footprints of tokens, in blocks of the codec signal and in pixels, exact in integers.

For small things a footprint is looked at in cells: tiles of the picture, about a quarter of a footprint wide and high (7x7
pixels of a 28-pixel token at the model's scale). Their sides are powers of two and they tile the picture from its corner, as
blocks do, so that a cell lies in one block, or blocks in one cell: then a block's change says most about a cell's.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid
from codecflow.messages import BLOCK

CELLS = 4
"""Cells along each axis of a footprint, about."""

Ints = npt.NDArray[np.int64]


class BlockSums:
    """Sums of a block grid over the blocks that each box touches, through one integral image."""

    def __init__(self, boxes: Ints, columns: int) -> None:
        """`boxes`: (n, 4) half-open (x0, y0, x1, y1) in luma samples; an empty box touches nothing."""
        x0, y0, x1, y1 = boxes.T
        left, top = x0 // BLOCK, y0 // BLOCK
        right = np.where(x1 > x0, -(-x1 // BLOCK), left)
        bottom = np.where(y1 > y0, -(-y1 // BLOCK), top)
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
        self.block_pixels = _block_lengths(grid.height)[:, None] * _block_lengths(grid.width)  # (block rows, columns)
        boxes = grid.boxes.astype(np.int64)
        x0, y0, x1, y1 = boxes.T
        self.areas = (x1 - x0) * (y1 - y0)
        self.cell = cell_side(x1 - x0), cell_side(y1 - y0)
        x_edges, y_edges = _cell_edges(x0, x1, self.cell[0]), _cell_edges(y0, y1, self.cell[1])
        self.cell_shape = y_edges.shape[1] - 1, x_edges.shape[1] - 1
        cell_boxes = np.broadcast_arrays(
            x_edges[:, None, :-1], y_edges[:, :-1, None], x_edges[:, None, 1:], y_edges[:, 1:, None]
        )
        self.block_sums = BlockSums(boxes, self.block_columns)
        self.cell_block_sums = BlockSums(np.stack(cell_boxes, axis=-1).reshape(-1, 4), self.block_columns)

    def patches(self, luma: npt.NDArray[np.uint8], tokens: Ints) -> npt.NDArray[np.uint8]:
        """(n, height, width) uint8 pixels under `tokens`, from the corner of each one's first cell on, zero beyond the
        footprint. luma: (height, width) uint8 of the coded picture."""
        if luma.shape != (self.grid.height, self.grid.width):
            raise ValueError(f"luma of {luma.shape[::-1]} does not fit a grid over {self.grid.width, self.grid.height}")
        (rows, columns), (cell_width, cell_height) = self.cell_shape, self.cell
        patches = np.zeros((len(tokens), rows * cell_height, columns * cell_width), np.uint8)
        # A copy a token is quicker than one gather by index: rows of a footprint are long enough to be moved as they are.
        for patch, (x0, y0, x1, y1) in zip(patches, self.grid.boxes[tokens].tolist(), strict=True):
            x, y = x0 % cell_width, y0 % cell_height
            patch[y : y + y1 - y0, x : x + x1 - x0] = luma[y0:y1, x0:x1]
        return patches

    def cell_differences(self, now: npt.NDArray[np.uint8], then: npt.NDArray[np.uint8]) -> Ints:
        """(n, *cell_shape) int64 sums of |now - then| over the cells of two (n, height, width) sets of patches."""
        difference = np.maximum(now, then) - np.minimum(now, then)
        (rows, columns), (cell_width, cell_height) = self.cell_shape, self.cell
        # Sums along rows as a matrix product: every sum is far below 2**24, so float32 holds it exactly.
        members = np.kron(np.eye(columns, dtype=np.float32), np.ones((cell_width, 1), np.float32))
        sums = difference.reshape(-1, columns * cell_width).astype(np.float32) @ members
        return np.asarray(sums.reshape(len(now), rows, cell_height, columns).sum(2, dtype=np.float64), np.int64)


def cell_side(lengths: Ints) -> int:
    """Side of a cell along one axis, for footprints of these lengths: the power of two nearest to their mean / CELLS."""
    wanted = float(lengths.mean()) / CELLS
    below = 1 << max(0, math.floor(math.log2(wanted)))
    return below if wanted - below <= 2 * below - wanted else 2 * below


def _cell_edges(starts: Ints, ends: Ints, side: int) -> Ints:
    """(tokens, cells + 1) edges of the cells that each stretch [start, end) touches, cut to it; empty beyond its end."""
    first = starts // side
    count = int((-(-ends // side) - first).max())
    edges = (first[:, None] + np.arange(count + 1)) * side
    cut: Ints = np.clip(edges, starts[:, None], ends[:, None])
    return cut


def _block_lengths(length: int) -> Ints:
    """Samples of the picture in each block along one axis: the last block may be cut by the picture's edge."""
    starts = np.arange(0, length, BLOCK)
    return np.minimum(starts + BLOCK, length) - starts
