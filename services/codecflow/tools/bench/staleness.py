"""Staleness of dropped tokens, measured from pictures and masks alone, without any of the policies' code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid

STALE = 16.0
"""Grey levels: a dropped token is stale if the mean over some 7x7 pixels of it, at the model's scale, has changed by more
than this since it was last kept. The mean is signed, so that noise, which the model need not see, cancels out."""

_PARTS = 4
"""Number of such squares along a token's side."""

_FEW = 40
"""With fewer tokens than this, squares are summed individually instead of over the whole picture."""


class LastKept:
    """The picture that the model last saw, composed of the tokens as they were kept."""

    def __init__(self, grid: TokenGrid) -> None:
        self._boxes = [np.s_[y0:y1, x0:x1] for x0, y0, x1, y1 in grid.boxes.tolist()]
        widths, heights = (grid.boxes[:, 2:] - grid.boxes[:, :2]).mean(axis=0)
        self._across, self._down = (max(1, round(float(length) / _PARTS)) for length in (widths, heights))
        self._seen = np.zeros((grid.height, grid.width), np.int16)
        self._kept_in = np.zeros(grid.tokens, np.int64)  # frame number
        self._means: dict[int, npt.NDArray[np.float64]] = {}  # by grid cell, of the frames that tokens are from
        self._frames = 0

    def stale(
        self, picture: npt.NDArray[np.int16], means: npt.NDArray[np.float64], keep: npt.NDArray[np.bool_]
    ) -> tuple[int, int]:
        """Stores the kept tokens of a frame, whose luma is `picture` and whose means per token are `means`.

        Returns how many of the others are stale, and how many more would be without compensation for a global gain and
        offset of the picture.
        """
        self._frames += 1
        self._kept_in[keep] = self._frames
        self._means = {frame: self._means[frame] for frame in set(self._kept_in.tolist()) if frame in self._means}
        self._means[self._frames] = means
        for token in np.flatnonzero(keep):
            self._seen[self._boxes[token]] = picture[self._boxes[token]]
        off = np.flatnonzero(~keep)
        if not off.size:
            return 0, 0
        changed = self._largest(picture, self._seen, off)
        beyond = off[changed > STALE]
        stale = 0
        for frame in set(self._kept_in[beyond].tolist()):
            gain, offset = _exposure(self._means[frame], means)
            tokens = beyond[self._kept_in[beyond] == frame]
            stale += int((self._largest(picture, self._seen, tokens, (gain, offset)) > STALE).sum())
        return stale, len(beyond) - stale

    def _largest(
        self,
        now: npt.NDArray[np.int16],
        then: npt.NDArray[np.int16],
        tokens: npt.NDArray[np.int64],
        exposure: tuple[float, float] | None = None,
    ) -> npt.NDArray[np.float64]:
        """The largest |mean of now - then| over a square that lies in the picture and has its centre in the token, for each
        of `tokens`; with `exposure` of now - gain * then - offset."""
        down, across = min(self._down, len(now)), min(self._across, now.shape[1])
        largest = np.zeros(len(tokens))
        squares = (
            None if len(tokens) < _FEW else np.abs(_sums(_difference(now, then, down * across, exposure), down, across))
        )
        for place, token in enumerate(tokens):
            tall, wide = self._boxes[token]
            rows = slice(max(0, tall.start - down // 2), max(1, tall.stop - down // 2))
            columns = slice(max(0, wide.start - across // 2), max(1, wide.stop - across // 2))
            if squares is not None:
                within = squares[rows, columns]
            else:
                seen = np.s_[rows.start : rows.stop + down - 1, columns.start : columns.stop + across - 1]
                part = _difference(now[seen], then[seen], down * across, exposure)
                within = (
                    np.abs(_sums(part, down, across))
                    if min(part.shape[0] - down, part.shape[1] - across) >= 0
                    else part[:0]
                )
            largest[place] = within.max() if within.size else 0.0
        largest /= down * across
        return largest


def token_means(grid: TokenGrid, picture: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """(tokens,): mean luma in each token's box."""
    sums = np.zeros((grid.height + 1, grid.width + 1), np.int64)
    sums[1:, 1:] = picture.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    x0, y0, x1, y1 = grid.boxes.T
    found = (sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]) / ((x1 - x0) * (y1 - y0))
    return np.asarray(found, np.float64)


def _difference(
    now: npt.NDArray[np.int16], then: npt.NDArray[np.int16], area: int, exposure: tuple[float, float] | None
) -> npt.NDArray[Any]:
    """Converted to a type in which sums over `area` samples are exact, or nearly so."""
    if exposure is not None:
        gain, offset = exposure
        return (now - gain * then - offset).astype(np.float32)
    return (now - then).astype(np.int16 if area * 255 < 2**15 else np.int32)


def _sums(values: npt.NDArray[Any], down: int, across: int) -> npt.NDArray[Any]:
    """Sums over every rectangle of `down` rows and `across` columns. Sums over the whole picture would need wider
    numbers."""
    rows, columns = (size - count + 1 for size, count in zip(values.shape, (down, across), strict=True))
    tall = values[:rows].copy()
    for shift in range(1, down):
        tall += values[shift : shift + rows]
    total = tall[:, :columns].copy()
    for shift in range(1, across):
        total += tall[:, shift : shift + columns]
    return total


def _exposure(then: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The gain and offset that explain the change of most of a picture's means; 1 and 0 if there is no such change."""
    gain, offset = 1.0, float(np.median(now - then))
    for _ in range(4):
        off = np.abs(now - gain * then - offset)
        fits = off <= max(1.0, 2 * float(np.median(off)))
        if fits.sum() >= 3 and then[fits].std() > 1:
            gain, offset = np.polyfit(then[fits], now[fits], 1).tolist()
    return (gain, offset) if np.mean(np.abs(now - gain * then - offset) <= 4) >= 0.5 else (1.0, 0.0)
