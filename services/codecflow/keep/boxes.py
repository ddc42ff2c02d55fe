"""Sums over the footprints of tokens, in blocks of the codec signal and in pixels, exact in integers.

The parts of a footprint are its 4x4 division; their edges fall on whole samples, and together they cover it once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codecflow.codec.footprints import TokenGrid
from codecflow.messages import BLOCK

PARTS = 4
"""Parts of a footprint along each axis: 7x7 pixels each of a 28-pixel token at the model's scale."""

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
    """The footprints of a token grid, their parts, and the pixels under them.

    Footprints may overlap: pixels are handled a token at a time, as patches, never as one composite picture.
    """

    def __init__(self, grid: TokenGrid) -> None:
        self.grid = grid
        self.block_rows, self.block_columns = -(-grid.height // BLOCK), -(-grid.width // BLOCK)
        boxes = grid.boxes.astype(np.int64)
        x0, y0, x1, y1 = boxes.T
        steps = np.arange(PARTS + 1)
        x_edges = x0[:, None] + steps * (x1 - x0)[:, None] // PARTS  # (tokens, PARTS + 1)
        y_edges = y0[:, None] + steps * (y1 - y0)[:, None] // PARTS
        self.areas = (x1 - x0) * (y1 - y0)  # (tokens,)
        self.part_areas = np.diff(y_edges)[:, :, None] * np.diff(x_edges)[:, None, :]  # (tokens, PARTS, PARTS)
        part_boxes = np.stack(
            np.broadcast_arrays(
                x_edges[:, None, :-1], y_edges[:, :-1, None], x_edges[:, None, 1:], y_edges[:, 1:, None]
            ),
            axis=-1,
        ).reshape(-1, 4)
        self.block_sums = BlockSums(boxes, self.block_columns)
        self.part_block_sums = BlockSums(part_boxes, self.block_columns)
        self._patch_x = _sample_positions(x_edges, sentinel=grid.width)
        self._patch_y = _sample_positions(y_edges, sentinel=grid.height)
        self.block_pixels = _block_lengths(grid.height)[:, None] * _block_lengths(grid.width)  # (block rows, columns)

    def patches(self, luma: npt.NDArray[np.uint8], tokens: Ints) -> npt.NDArray[np.uint8]:
        """(n, height, width) uint8 pixels under `tokens`, zero beyond the footprint. luma: (height, width) uint8."""
        if luma.shape != (self.grid.height, self.grid.width):
            raise ValueError(f"luma of {luma.shape[::-1]} does not fit a grid over {self.grid.width, self.grid.height}")
        padded = np.zeros((luma.shape[0] + 1, luma.shape[1] + 1), np.uint8)
        padded[:-1, :-1] = luma
        index = (self._patch_y[tokens] * padded.shape[1])[:, :, None] + self._patch_x[tokens][:, None, :]
        return np.take(padded, index)

    @staticmethod
    def part_differences(now: npt.NDArray[np.uint8], then: npt.NDArray[np.uint8]) -> Ints:
        """(n, PARTS, PARTS) int64 sums of |now - then| over the parts of two (n, height, width) sets of patches."""
        difference = np.maximum(now, then) - np.minimum(now, then)
        n, height, width = difference.shape
        # Column sums as a matrix product: every sum is far below 2**24, so float32 holds it exactly.
        members = np.kron(np.eye(PARTS, dtype=np.float32), np.ones((width // PARTS, 1), np.float32))
        sums = difference.reshape(-1, width).astype(np.float32) @ members
        return np.asarray(sums.reshape(n, PARTS, height // PARTS, PARTS).sum(2, dtype=np.float64), np.int64)


def _sample_positions(edges: Ints, sentinel: int) -> Ints:
    """(tokens, PARTS * longest) positions of the samples of each part, padded with `sentinel`, a row or column of zeros."""
    longest = max(1, int(np.diff(edges).max()))
    positions = edges[:, :-1, None] + np.arange(longest)
    return np.where(positions < edges[:, 1:, None], positions, sentinel).reshape(len(edges), -1)


def _block_lengths(length: int) -> Ints:
    """Samples of the picture in each block along one axis: the last block may be cut by the picture's edge."""
    starts = np.arange(0, length, BLOCK)
    return np.minimum(starts + BLOCK, length) - starts
