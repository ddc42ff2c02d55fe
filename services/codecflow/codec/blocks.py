"""How much each 16x16 block of a picture, and each 8x8 quarter of one, differs from another picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from codecflow.messages import BLOCK

QUARTER = BLOCK // 2
"""Side of a quarter, in samples."""

Luma = npt.NDArray[np.uint8]
"""(height, width) uint8 luma samples."""


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of blocks that cover a picture; those at its right and lower edge may hang over."""
    return -(-height // BLOCK), -(-width // BLOCK)


@dataclass(frozen=True, slots=True)
class Differences:
    """How far a picture is from another, block by block and quarter by quarter (8x8 samples), in eighths of a grey level.

    `change`: (rows, columns), `quarters`: (2 * rows, 2 * columns), both int64: mean absolute differences over the samples of
    the picture that are in it, rounded up, so that they are bounds; 0 where none are. Above 255 for nobody: at most 2040.
    """

    change: npt.NDArray[np.int64]
    quarters: npt.NDArray[np.int64]


def differences(now: Luma, before: Luma) -> Differences:
    """The differences of two pictures of one size."""
    height, width = now.shape
    sums = _quarter_sums(now, before)
    rows, columns = sums.shape[0] // 2, sums.shape[1] // 2
    of_blocks = sums.reshape(rows, 2, columns, 2).sum((1, 3))
    counts = np.outer(_extents(height, QUARTER, 2 * rows), _extents(width, QUARTER, 2 * columns))
    of_block = np.outer(_extents(height, BLOCK, rows), _extents(width, BLOCK, columns))
    return Differences(-(-8 * of_blocks // of_block), -(-8 * sums // np.maximum(counts, 1)))


def _extents(length: int, side: int, count: int) -> npt.NDArray[np.int64]:
    """Samples of each of `count` pieces of `side` along `length` samples."""
    return np.clip(length - np.arange(count) * side, 0, side)


def _quarter_sums(now: Luma, before: Luma) -> npt.NDArray[np.int64]:
    """(2 * rows, 2 * columns): sums of |now - before| over 8x8 samples.

    Everything stays in the few bytes that samples have: differences as larger minus smaller, their sums in 16-bit lanes of
    64-bit words. In bands that fit the processor's cache, with buffers used again. A third of the time of plain sums.
    """
    height, width = now.shape
    rows, columns = grid_shape(height, width)
    larger = np.zeros((_BAND * BLOCK, columns * BLOCK), np.uint8)  # beyond the picture it stays 0
    smaller = np.empty((_BAND * BLOCK, width), np.uint8)
    odd = np.empty((_BAND * BLOCK, columns * BLOCK // 8), np.uint64)
    sums = np.empty((2 * rows, 2 * columns), np.int64)
    for row in range(0, rows, _BAND):
        samples = slice(row * BLOCK, min((row + _BAND) * BLOCK, height))
        count = samples.stop - samples.start
        difference = larger[:count, :width]
        np.maximum(now[samples], before[samples], out=difference)
        np.minimum(now[samples], before[samples], out=smaller[:count])
        difference -= smaller[:count]
        larger[count:] = 0
        sums[2 * row : 2 * (row + _BAND)] = _band_sums(larger.view(np.uint64), odd)[: 2 * (rows - row)]
    return sums


def _band_sums(words: npt.NDArray[np.uint64], odd: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """(2 * _BAND, 2 * columns): sums over the quarters of the samples in `words`, eight to a word, which this overwrites.

    A lane gathers two samples of each of 8 rows, at most 4080; the four lanes of a quarter, at most 16320, are whole
    numbers in float32 too.
    """
    np.right_shift(words, np.uint64(8), out=odd)
    np.bitwise_and(odd, _LANES, out=odd)
    np.bitwise_and(words, _LANES, out=words)
    np.add(words, odd, out=words)
    strips = np.add.reduce(words.reshape(2 * _BAND, QUARTER, -1), axis=1)
    lanes = strips.view(np.uint16).astype(np.float32).reshape(2 * _BAND, -1, 4)
    return cast(npt.NDArray[np.float32], lanes @ _ONES)


_BAND = 8
"""Rows of blocks at a time: a band of a 1280 samples wide picture takes 160 kB."""

_LANES = np.uint64(0x00FF00FF00FF00FF)
_ONES = np.ones(4, np.float32)
