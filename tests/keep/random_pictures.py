"""Random pictures and their codec signal, computed in the simplest way."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from codecflow.grid import TokenGrid
from codecflow.keep import KeepDecision, KeepState, Luma
from codecflow.messages import BLOCK, NO_BOUND, UNCHANGED, Exposure, Signal

Picture = npt.NDArray[np.uint8]


class Producer:
    """Signals of shown pictures, as the wire defines them: each picture is measured against a reference, in the simplest
    way. `slack` loosens bounds further."""

    def __init__(self) -> None:
        self._tick = -1
        self._reference: tuple[int, Picture] | None = None

    def show(
        self,
        picture: Picture,
        *,
        reference: bool = False,
        exposure: Exposure = UNCHANGED,
        noise: int = 0,
        slack: npt.NDArray[np.uint8] | None = None,
    ) -> Signal:
        previous, self._tick = self._tick, self._tick + 1
        height, width = picture.shape
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        change, since = np.full((rows, columns), NO_BOUND, np.uint8), None
        if self._reference is not None:
            since, then = self._reference
            change = np.minimum(cell_changes(picture, then, exposure), NO_BOUND).astype(np.uint8)
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
            exposure=UNCHANGED if since is None else exposure,
            noise=noise,
        )


def cell_changes(now: Picture, then: Picture, exposure: Exposure = UNCHANGED) -> npt.NDArray[np.int64]:
    """(rows, columns): over the cells that begin in each block (8x8 samples at a multiple of 4, from 1280x720 on 16x16 of
    8), the maximum of |mean of now - (gain x then + offset)|, in eighths, rounded up. Samples beyond the picture do not
    count."""
    step = least_step(*now.shape)
    height, width = now.shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    off = np.zeros((rows * BLOCK + 16, columns * BLOCK + 16), np.int64)  # in 256ths
    off[:height, :width] = 256 * now.astype(np.int64) - exposure.gain * then.astype(np.int64) - 32 * exposure.offset
    cells = sliding_window_view(off, (2 * step, 2 * step))[: rows * BLOCK : step, : columns * BLOCK : step]
    sums, per = np.abs(cells.sum((2, 3))), BLOCK // step
    return np.asarray(-(-8 * sums.reshape(rows, per, columns, per).max((1, 3)) // (256 * 4 * step * step)))


def least_step(height: int, width: int) -> int:
    """Samples from a cell of the codec signal to the next."""
    return 8 if height * width >= 1280 * 720 else 4


def step(state: KeepState, slot: int, signal: Signal | None, luma: Luma, *, keyframe: bool = False) -> KeepDecision:
    """The decision for a frame with this signal; None: it has none."""
    if signal is not None:
        state.observe(signal)
    return state.step(slot, luma, keyframe=keyframe)


def steps(grid: TokenGrid) -> tuple[int, int]:
    """(across, down) samples from a cell to the next: the powers of two nearest to an eighth of the mean footprint, the
    lower one in a tie, but at least the signal's."""
    wanted = (grid.boxes[:, 2:] - grid.boxes[:, :2]).mean(axis=0) / 8
    across, down = (min((2**k for k in range(12)), key=lambda side: (abs(side - float(w)), side)) for w in wanted)
    least = least_step(grid.height, grid.width)
    return max(least, across), max(least, down)


def cells_of(start: int, end: int, step: int, length: int) -> list[int]:
    """Start, along an axis, of the cells whose centre is within, or of the nearest one."""
    beginnings = list(range(0, max(1, -(-length // step) - 1) * step, step))
    inside = [x for x in beginnings if start < x + step < end]
    last = len(beginnings) - 1
    return inside or [beginnings[min(max((start + end) // (2 * step) - 1, 0), last)]]


def cell_means(grid: TokenGrid, token: int, difference: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(rows, columns): means of a picture's signed difference over the token's cells; nothing differs beyond the picture."""
    across, down = steps(grid)
    x0, y0, x1, y1 = grid.boxes[token].tolist()
    return np.array(
        [
            [
                difference[y : y + 2 * down, x : x + 2 * across].sum() / (4 * across * down)
                for x in cells_of(x0, x1, across, grid.width)
            ]
            for y in cells_of(y0, y1, down, grid.height)
        ]
    )


def differs(grid: TokenGrid, token: int, difference: npt.NDArray[np.float64]) -> tuple[float, float]:
    """(mean over the token, largest of a cell), in grey levels: the quantities of the rule."""
    means = cell_means(grid, token, difference)
    return abs(float(means[::2, ::2].mean())), float(np.abs(means).max())


def overlapping_grid(rng: np.random.Generator, width: int, height: int, rows: int, columns: int) -> TokenGrid:
    """A grid of overlapping boxes anywhere in the picture."""
    boxes = []
    for _ in range(rows * columns):
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        boxes.append([x0, y0, int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1))])
    return TokenGrid(rows, columns, width, height, np.array(boxes, np.int32))
