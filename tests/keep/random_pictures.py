"""Random pictures and their codec signal, made by the plainest means."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid
from codecflow.keep import KeepDecision, KeepState, Luma
from codecflow.messages import BLOCK, NO_BOUND, Signal

Picture = npt.NDArray[np.uint8]


class Producer:
    """Signals of shown pictures, as the wire defines them: each picture is measured against a reference, made by the
    plainest means. Its blocks may be in detail, and `slack` loosens bounds further."""

    def __init__(self) -> None:
        self._tick = -1
        self._reference: tuple[int, Picture] | None = None

    def show(
        self,
        picture: Picture,
        *,
        reference: bool = False,
        detail: bool = False,
        slack: npt.NDArray[np.uint8] | None = None,
    ) -> Signal:
        previous, self._tick = self._tick, self._tick + 1
        height, width = picture.shape
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        change, quarters, since = np.full((rows, columns), NO_BOUND, np.uint8), None, None
        if self._reference is not None:
            since, then = self._reference
            change = np.minimum(eighths(picture, then, BLOCK), NO_BOUND).astype(np.uint8)
            if detail:
                quarters = np.full((2 * rows, 2 * columns), NO_BOUND, np.uint8)
                exact = eighths(picture, then, BLOCK // 2)
                for row, column in product(range(rows), range(columns)):
                    block = np.s_[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                    if (row + column + self._tick) % 3 and exact[block].max() < NO_BOUND:
                        quarters[block] = exact[block]
        if slack is not None:
            change = np.minimum(change.astype(int) + slack, NO_BOUND).astype(np.uint8)
        if self._reference is None or reference:
            self._reference, reference = (self._tick, picture), True
        return Signal(
            tick=self._tick,
            interval=Fraction(1, 2),
            change=change,
            motion=None,
            intra=None,
            since=since,
            previous=None if previous < 0 else previous,
            reference=reference,
            quarters=quarters,
        )


def eighths(now: Picture, then: Picture, side: int) -> npt.NDArray[np.int64]:
    """Mean absolute difference over each piece of `side` samples of the blocks that cover a picture, in eighths, rounded
    up."""
    height, width = now.shape
    difference = np.abs(now.astype(int) - then.astype(int))
    rows, columns = (-(-length // BLOCK) * BLOCK // side for length in (height, width))
    values = np.zeros((rows, columns), np.int64)
    for row, column in product(range(rows), range(columns)):
        piece = difference[row * side : (row + 1) * side, column * side : (column + 1) * side]
        if piece.size:
            values[row, column] = -(-Fraction(int(piece.sum()) * 8, piece.size) // 1)
    return values


def step(state: KeepState, slot: int, signal: Signal | None, luma: Luma, *, keyframe: bool = False) -> KeepDecision:
    """The decision for a frame with this signal; None: it has none."""
    if signal is not None:
        state.observe(signal)
    return state.step(slot, luma, keyframe=keyframe)


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
