"""Random pictures and their codec signal, made by the plainest means."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid
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


def cell_sides(grid: TokenGrid) -> tuple[int, int]:
    """(width, height) of a cell: the powers of two nearest to a quarter of the mean footprint, the lower of two as near."""
    wanted = (grid.boxes[:, 2:] - grid.boxes[:, :2]).mean(axis=0) / 4
    width, height = (min((2**k for k in range(12)), key=lambda side: (abs(side - float(w)), side)) for w in wanted)
    return width, height


def largest_cell_difference(grid: TokenGrid, token: int, now: Picture, then: Picture) -> float:
    """The largest sum of |now - then| within a cell and a token's footprint, over the area of a whole cell."""
    width, height = cell_sides(grid)
    outside = np.ones(now.shape, bool)
    x0, y0, x1, y1 = grid.boxes[token].tolist()
    outside[y0:y1, x0:x1] = False
    difference = np.abs(now.astype(int) - then.astype(int))
    difference[outside] = 0
    cells = product(range(y0 // height * height, y1, height), range(x0 // width * width, x1, width))
    return max(int(difference[y : y + height, x : x + width].sum()) / (width * height) for y, x in cells)


def overlapping_grid(rng: np.random.Generator, width: int, height: int, rows: int, columns: int) -> TokenGrid:
    """A grid whose boxes lie anywhere in the picture and overlap."""
    boxes = []
    for _ in range(rows * columns):
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        boxes.append([x0, y0, int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1))])
    return TokenGrid(rows, columns, width, height, np.array(boxes, np.int32))
