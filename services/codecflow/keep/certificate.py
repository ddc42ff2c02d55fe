"""What was last kept of each token, and the bound by which the codec signal alone proves that it has not changed.

Everything is in means of cells (boxes.py). Let k be the picture in which a token was last kept, r the signal's reference and
n the current picture; the same letters stand for a cell's mean in them. The camera's exposure may have changed since, as
stated by the signals, by a gain and an offset: e(x) is the current value of a mean x of the reference. What was kept is
stored as it would have been in the reference; then the triangle inequality gives

    |n - e(k)|  <=  |n - e(r)|  +  gain x |r - k|

A signal's `change` bounds the first part. The second is carried forward: it equals the first part when k is a signal picture
of the same reference, and zero when k is the reference itself. Where pixels are compared, the left side is known, and
|r - k| <= (|n - e(r)| + |n - e(k)|) / gain. When n becomes the reference, what was kept is converted to the current
exposure, and the left side becomes the distance to the reference.

This is exact: `change` is rounded up, and a margin of a thousandth of a grey level covers floating-point rounding. Noise
enters once or twice, but does not accumulate over time, as it does if each picture is measured against the previous one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codecflow.errors import MessageError
from codecflow.messages import UNCHANGED, Exposure, Signal

from .boxes import UNBOUNDED, Cells, Floats, Ints

SEEN = 0.48
"""Where the cells of small pictures show less than this of a change of 7x7 pixels (Cells.seen), their threshold is lower in
proportion: such a change of 16 grey levels is kept in pictures of any size."""

NOISE_CELL, NOISE_TOKEN = 3.3, 1.5
"""Minimum of thresholds, in multiples of the stream's noise: among hundreds of cells, some differ by four deviations by
chance. A mean over a token has less noise."""

HIGHEST = 16.0
"""Grey levels up to which noise raises thresholds. Larger differences are never dropped."""

MAX_EXPOSURE = 32.0
"""Grey levels by which the camera's exposure may have changed a token since it was kept, suddenly or gradually. Beyond, the
model's picture of it is outdated."""

_ROUNDING = 1e-3


class Certificate:
    """Each token's difference from when it was last kept, in bounds and in pixels.

    Pass it every signal, in tick order (`observe`), including those of pictures that are not sampled frames; then what is
    compared of the frame, and what is kept.

    `threshold`: grey levels by which a token's mean may differ, `cell_threshold`: that of any of its cells. Noise raises
    both; in small pictures that of cells is lower (SEEN).
    """

    def __init__(self, cells: Cells, threshold: float, cell_threshold: float) -> None:
        self._cells = cells
        self._least = threshold, cell_threshold * min(1.0, cells.seen / SEEN)
        self._limit, self._cell_limit = self._least
        self._exposure = UNCHANGED
        self._share = cells.of_tokens(cells.share)
        self._last_kept = np.zeros(self._share.shape)  # means, in the reference's exposure
        self._seen = np.zeros(len(self._share))  # means over tokens, unconverted
        self._kept = self._all(UNBOUNDED)  # bounds: current to last kept
        self._reference_kept = self._all(UNBOUNDED)  # the reference to last kept
        self._reference = self._all(UNBOUNDED)  # current to the reference
        self._reference_tick: int | None = None
        self._renewed: int | None = None  # tick of the picture that becomes the reference with the next signal
        self._invalidated = False

    def observe(self, signal: Signal) -> None:
        """The signal of the next signal picture. Raises MessageError when it is not of this grid's picture."""
        check_fits(signal, self._cells)
        self._renew()
        if signal.since != self._reference_tick or signal.since is None:
            self._reference_kept, self._reference_tick = self._all(UNBOUNDED), signal.since  # a signal is missing
        self._renewed = signal.tick if signal.reference else None
        if signal.since is None:
            self._exposure, self._reference = UNCHANGED, self._all(UNBOUNDED)
        else:
            self._exposure = signal.exposure
            self._reference = self._cells.of_tokens(self._cells.bounds(signal.change))
        self._kept = self._reference + self._gain * self._reference_kept
        noise, (threshold, cell_threshold) = signal.noise / 8, self._least
        self._limit = max(threshold, min(NOISE_TOKEN * noise, HIGHEST))
        self._cell_limit = max(cell_threshold, min(NOISE_CELL * noise, HIGHEST))

    def unknown(self) -> None:
        """The next frame has no signal: nothing is known about it."""
        self._renew()
        self._reference, self._kept = self._all(UNBOUNDED), self._all(UNBOUNDED)

    def invalidate(self) -> None:
        """The current samples are not those of the signal observed last: it does not bound their distance."""
        self._reference = self._all(UNBOUNDED)
        self._invalidated = True

    def _renew(self) -> None:
        """If the picture observed last becomes the reference, what was kept is compared with that one."""
        if self._renewed is not None:
            self._reference_kept = self._all(UNBOUNDED) if self._invalidated else self._kept
            self._reference_tick = self._renewed
            self._last_kept = self._shown_now(self._last_kept, self._share)
            self._exposure = UNCHANGED
        self._renewed, self._invalidated = None, False

    def within(self) -> npt.NDArray[np.bool_]:
        """(tokens,) bool: tokens that the bounds prove to be within both thresholds."""
        means = self._cells.token_means(self._kept)
        cells = (self._kept <= self._cell_limit - _ROUNDING).all((1, 2))
        return np.asarray((means <= self._limit - _ROUNDING) & cells & self._exposed_alike())

    def compare(self, tokens: Ints, now: Floats) -> npt.NDArray[np.bool_]:
        """(n,) bool: whether `tokens` are within both thresholds, given the means of their cells, (n, rows, columns). Their
        bounds restart from the measured values."""
        alike = self._exposed_alike()[tokens]
        difference = now - self._shown_now(self._last_kept[tokens], self._share[tokens])
        means = np.abs(self._cells.token_means(difference, tokens))
        difference = np.abs(difference)
        self._kept[tokens] = difference
        self._reference_kept[tokens] = np.minimum(
            self._reference_kept[tokens], (difference + self._reference[tokens]) / self._gain
        )
        return np.asarray((means <= self._limit) & (difference <= self._cell_limit).all((1, 2)) & alike)

    def keep(self, tokens: Ints, now: Floats) -> None:
        """`tokens` are kept now, with these means, (n, rows, columns): their difference from what was last kept is zero."""
        offset = self._exposure.offset / Exposure.OFFSET_UNIT
        self._last_kept[tokens] = (now - offset * self._share[tokens]) / self._gain
        self._seen[tokens] = self._cells.token_means(now, tokens)
        self._kept[tokens] = 0
        self._reference_kept[tokens] = self._reference[tokens] / self._gain

    def _exposed_alike(self) -> npt.NDArray[np.bool_]:
        """(tokens,) bool: the exposure has not changed them by more than MAX_EXPOSURE since they were kept."""
        shown = self._cells.token_means(self._shown_now(self._last_kept, self._share))
        return np.asarray(np.abs(shown - self._seen) <= MAX_EXPOSURE)

    @property
    def _gain(self) -> float:
        return self._exposure.gain / Exposure.GAIN_UNIT

    def _shown_now(self, means: Floats, share: Floats) -> Floats:
        """Means of the reference, converted to the current exposure."""
        if self._exposure == UNCHANGED:
            return means
        return means * self._gain + share * (self._exposure.offset / Exposure.OFFSET_UNIT)

    def _all(self, bound: float) -> Floats:
        return np.full(self._share.shape, bound)


def check_fits(signal: Signal, cells: Cells) -> None:
    """Raises MessageError when the signal's grids are not those of the picture that the token grid lies on."""
    if (signal.rows, signal.columns) != (cells.block_rows, cells.block_columns):
        grid = cells.grid
        raise MessageError(
            f"signal of {signal.rows}x{signal.columns} blocks does not fit a picture of {grid.width}x{grid.height}"
        )
