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
    counts = np.outer(_extents(height), _extents(width))
    eighths = -(-8 * _difference_sums(now, before) // counts)
    return cast(Grid, np.minimum(eighths, NO_BOUND).astype(np.uint8))


def _extents(length: int) -> npt.NDArray[np.int64]:
    """Samples of each block along one side of `length` samples."""
    starts = np.arange(0, length, BLOCK)
    return np.minimum(BLOCK, length - starts)


def _difference_sums(now: Luma, before: Luma) -> npt.NDArray[np.int64]:
    """(rows, columns): sums of |now - before| over 16x16 blocks.

    Everything stays in the few bytes that samples have: differences as larger minus smaller, their sums in 16-bit lanes of
    64-bit words. In bands that fit the processor's cache, with buffers used again. A third of the time of plain sums.
    """
    height, width = now.shape
    rows, columns = grid_shape(height, width)
    larger = np.zeros((_BAND * BLOCK, columns * BLOCK), np.uint8)  # beyond the picture it stays 0
    smaller = np.empty((_BAND * BLOCK, width), np.uint8)
    odd = np.empty((_BAND * BLOCK, columns * BLOCK // 8), np.uint64)
    sums = np.empty((rows, columns), np.int64)
    for row in range(0, rows, _BAND):
        samples = slice(row * BLOCK, min((row + _BAND) * BLOCK, height))
        count = samples.stop - samples.start
        difference = larger[:count, :width]
        np.maximum(now[samples], before[samples], out=difference)
        np.minimum(now[samples], before[samples], out=smaller[:count])
        difference -= smaller[:count]
        larger[count:] = 0
        sums[row : row + _BAND] = _band_sums(larger.view(np.uint64), odd)[: rows - row]
    return sums


def _band_sums(words: npt.NDArray[np.uint64], odd: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """(_BAND, columns): block sums of the samples in `words`, eight to a word, which this overwrites.

    A lane gathers two samples of each of 16 rows, at most 8160; the eight lanes of a block, at most 65280, are whole
    numbers in float32 too.
    """
    np.right_shift(words, np.uint64(8), out=odd)
    np.bitwise_and(odd, _LANES, out=odd)
    np.bitwise_and(words, _LANES, out=words)
    np.add(words, odd, out=words)
    strips = np.add.reduce(words.reshape(_BAND, BLOCK, -1), axis=1)
    lanes = strips.view(np.uint16).astype(np.float32).reshape(_BAND, -1, 8)
    return cast(npt.NDArray[np.float32], lanes @ _ONES)


_BAND = 8
"""Rows of blocks at a time: a band of a 1280 samples wide picture takes 160 kB."""

_LANES = np.uint64(0x00FF00FF00FF00FF)
_ONES = np.ones(8, np.float32)
