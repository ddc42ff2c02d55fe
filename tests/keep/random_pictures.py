"""Random pictures and their codec signal, made by the plainest means."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from codecflow.codec.footprints import TokenGrid
from codecflow.messages import BLOCK, NO_BOUND, Signal

Picture = npt.NDArray[np.uint8]


def signal_between(pictures: list[Picture], tick: int = 0, slack: npt.NDArray[np.uint8] | None = None) -> Signal:
    """The `change` of shown pictures after the first, as the wire defines it; `slack` loosens the bound further."""
    height, width = pictures[0].shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    change = np.zeros((rows, columns), np.uint8)
    for row in range(rows):
        for column in range(columns):
            block = np.s_[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
            eighths = sum(
                Fraction(int(np.abs(now[block].astype(int) - before[block].astype(int)).sum()) * 8, now[block].size)
                for before, now in pairwise(pictures)
            )
            change[row, column] = min(NO_BOUND, -(-Fraction(eighths) // 1))
    if slack is not None:
        change = np.minimum(change.astype(int) + slack, NO_BOUND).astype(np.uint8)
    return Signal(tick=tick, interval=Fraction(1, 2), change=change, motion=None, intra=None)


def mean_difference(grid: TokenGrid, token: int, now: Picture, then: Picture) -> float:
    """Mean |now - then| in grey levels over a token's footprint."""
    x0, y0, x1, y1 = grid.boxes[token]
    return float(np.abs(now[y0:y1, x0:x1].astype(int) - then[y0:y1, x0:x1].astype(int)).mean())


def largest_part_difference(grid: TokenGrid, token: int, now: Picture, then: Picture) -> float:
    """The largest mean |now - then| over the 4x4 parts of a token's footprint."""
    x0, y0, x1, y1 = grid.boxes[token]
    difference = np.abs(now[y0:y1, x0:x1].astype(int) - then[y0:y1, x0:x1].astype(int))
    bands = [band for band in np.array_split(difference, _edges(y1 - y0), axis=0) if band.size]
    parts = [part for band in bands for part in np.array_split(band, _edges(x1 - x0), axis=1) if part.size]
    return max(float(part.mean()) for part in parts)


def _edges(length: int) -> list[int]:
    return [k * int(length) // 4 for k in (1, 2, 3)]


def overlapping_grid(rng: np.random.Generator, width: int, height: int, rows: int, columns: int) -> TokenGrid:
    """A grid whose boxes lie anywhere in the picture and overlap."""
    boxes = []
    for _ in range(rows * columns):
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        boxes.append([x0, y0, int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1))])
    return TokenGrid(rows, columns, width, height, np.array(boxes, np.int32))
