"""How much each 16x16 block of a picture differs from another picture."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from codecflow.messages import BLOCK, NO_BOUND, Grid

Luma = npt.NDArray[np.uint8]
"""(height, width) uint8 luma samples."""


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of blocks that cover a picture; those at its right and lower edge may hang over."""
    return -(-height // BLOCK), -(-width // BLOCK)


def block_change(now: Luma, before: Luma) -> Grid:
    """(rows, columns) uint8: mean absolute difference over each block's own samples, in eighths of a grey level.

    Rounded up, so that it is a bound: no block differs by more than its value says. From 255 on NO_BOUND.
    """
    height, width = now.shape
    difference = np.maximum(now, before)
    difference -= np.minimum(now, before)
    sums = _block_sums(difference)
    counts = np.outer(_extents(height), _extents(width))
    eighths = -(-8 * sums // counts)
    return cast(Grid, np.minimum(eighths, NO_BOUND).astype(np.uint8))


def _extents(length: int) -> npt.NDArray[np.int64]:
    """Samples of each block along one side of `length` samples."""
    starts = np.arange(0, length, BLOCK)
    return np.minimum(BLOCK, length - starts)


def _block_sums(samples: Luma) -> npt.NDArray[np.int64]:
    """(rows, columns): sums over 16x16 blocks, four bytes of every eight at a time in 16-bit lanes of one 64-bit word.

    A lane takes two samples of each of 16 rows, at most 8160. Plain numpy sums of uint8 convert first and take ten times
    as long.
    """
    height, width = samples.shape
    rows, columns = grid_shape(height, width)
    if (height, width) != (rows * BLOCK, columns * BLOCK) or not samples.flags.c_contiguous:
        padded = np.zeros((rows * BLOCK, columns * BLOCK), np.uint8)
        padded[:height, :width] = samples
        samples = padded
    words = samples.view(np.uint64)
    lanes = np.uint64(0x00FF00FF00FF00FF)
    pairs = (words & lanes) + ((words >> np.uint64(8)) & lanes)
    strips = np.add.reduce(pairs.reshape(rows, BLOCK, -1), axis=1)
    sums: npt.NDArray[np.int64] = strips.view(np.uint16).reshape(rows, columns, 8).sum(axis=2, dtype=np.int64)
    return sums
