"""The bound by which the codec signal alone shows that a token has not changed.

For pictures k (in which a token was last kept), r (the signal's reference) and n (now), and any box B of samples, the
triangle inequality gives

    sum over B of |n - k|  <=  sum over B of |n - r|  +  sum over B of |r - k|

A signal's `change` bounds the mean of |n - r| over each block, and `quarters` over each quarter of some: the samples of the
blocks (or quarters) that B touches, times their change, added up, bound the first sum. The second is carried along: it is
the first when k is a signal picture of the same reference, and zero when k is the reference itself. Where pixels are
compared, |n - k| is known, and |r - k| <= |r - n| + |n - k|. When n becomes the reference, its distance to k becomes that
of the reference.

A theorem, in whole eighths of a grey level, with nothing rounded but `change` itself, up. Noise comes in once, or twice, but
does not add up with time, as it does where each picture is measured against the one before.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from codecflow.errors import MessageError
from codecflow.messages import NO_BOUND, Signal, detailed

from .boxes import Footprints, Ints

EIGHTHS = 8
"""Units of `change` in a grey level."""

UNBOUNDED = 1 << 40
"""A bound that no threshold reaches: above 255 grey levels over any picture, in eighths, and safe to add in 64 bits."""


class _Bounds:
    """Upper bounds of summed luma differences, in eighths of a grey level, over each token's footprint and its cells.

    `total`: (tokens,), `cells`: (tokens, rows, columns), int64.
    """

    def __init__(self, total: Ints, cells: Ints) -> None:
        self.total, self.cells = total, cells

    def __add__(self, other: _Bounds) -> _Bounds:
        return _Bounds(np.minimum(self.total + other.total, UNBOUNDED), np.minimum(self.cells + other.cells, UNBOUNDED))

    def lower(self, other: _Bounds, tokens: Ints) -> None:
        """Keeps the smaller of both for `tokens`."""
        self.total[tokens] = np.minimum(self.total[tokens], other.total[tokens])
        self.cells[tokens] = np.minimum(self.cells[tokens], other.cells[tokens])


class Certificate:
    """Bounds of each token's difference to the frame in which it was last kept.

    Give it every signal, in the order of ticks (`observe`), also those of pictures that are no sampled frame; then what was
    found out of the frame: what was measured, and what is kept.
    """

    def __init__(self, footprints: Footprints, threshold: float, detail_threshold: float) -> None:
        self._footprints = footprints
        self._limit = np.floor(threshold * EIGHTHS * footprints.areas).astype(np.int64)
        self._cell_limit = math.floor(detail_threshold * EIGHTHS * footprints.cell[0] * footprints.cell[1])
        self._cell_shape = (footprints.areas.size, *footprints.cell_shape)
        self._kept = self._all(UNBOUNDED)  # now to what was last kept
        self._reference_kept = self._all(UNBOUNDED)  # the reference to what was last kept
        self._reference = self._all(UNBOUNDED)  # now to the reference
        self._reference_tick: int | None = None
        self._renewed: int | None = None  # tick of the picture that is the reference from the next signal on
        self._distrusted = False

    def observe(self, signal: Signal) -> None:
        """The signal of the next signal picture. Raises MessageError when it is none of this grid's picture."""
        check_fits(signal, self._footprints)
        self._renew()
        if signal.since != self._reference_tick or signal.since is None:
            self._reference_kept, self._reference_tick = self._all(UNBOUNDED), signal.since  # a signal is missing
        self._renewed = signal.tick if signal.reference else None
        self._reference = self._bounds_of(signal)
        self._kept = self._reference + self._reference_kept

    def unknown(self) -> None:
        """The next frame has no signal: nothing is known of it."""
        self._renew()
        self._reference, self._kept = self._all(UNBOUNDED), self._all(UNBOUNDED)

    def distrust(self) -> None:
        """The samples that are looked at now are not those of the signal observed last: it bounds no distance to them."""
        self._reference = self._all(UNBOUNDED)
        self._distrusted = True

    def _renew(self) -> None:
        """Where the picture observed last is the reference from now on, its distance to what was kept is that
        reference's."""
        if self._renewed is not None:
            self._reference_kept = self._all(UNBOUNDED) if self._distrusted else self._kept
            self._reference_tick = self._renewed
        self._renewed, self._distrusted = None, False

    def within(self) -> npt.NDArray[np.bool_]:
        """(tokens,) bool: tokens that the bounds show to be within both thresholds."""
        return np.logical_and(self.mean_within(), np.all(self._kept.cells <= self._cell_limit, axis=(1, 2)))

    def mean_within(self) -> npt.NDArray[np.bool_]:
        """(tokens,) bool: tokens whose mean over the footprint the bound shows to be within the threshold."""
        return np.asarray(self._kept.total <= self._limit)

    def measured_within(self, tokens: Ints, differences: Ints) -> npt.NDArray[np.bool_]:
        """(n,) bool: whether measured sums over the cells, (n, rows, columns) in grey levels, are within both thresholds.

        The bounds of `tokens` restart at what was measured.
        """
        self._kept.cells[tokens] = differences * EIGHTHS
        self._kept.total[tokens] = self._kept.cells[tokens].sum((1, 2))
        self._reference_kept.lower(self._kept + self._reference, tokens)
        return self.within()[tokens]

    def keep(self, tokens: Ints) -> None:
        """`tokens` are kept now: their difference to what was last kept is zero."""
        self._kept.total[tokens] = 0
        self._kept.cells[tokens] = 0
        self._reference_kept.total[tokens] = self._reference.total[tokens]
        self._reference_kept.cells[tokens] = self._reference.cells[tokens]

    def _all(self, bound: int) -> _Bounds:
        return _Bounds(np.full(self._limit.shape, bound, np.int64), np.full(self._cell_shape, bound, np.int64))

    def _bounds_of(self, signal: Signal) -> _Bounds:
        """Bounds of the difference of the signal's picture to its reference."""
        footprints = self._footprints
        change = signal.change.astype(np.int64) * footprints.block_pixels
        change[signal.change == NO_BOUND] = UNBOUNDED
        quarters = None
        if signal.quarters is not None:
            quarters = np.where(signal.quarters == NO_BOUND, 0, signal.quarters * footprints.quarter_pixels)
            change[detailed(signal.quarters)] = 0
        if signal.since is None:
            change[:] = UNBOUNDED
        total, cells = footprints.block_sums(change), footprints.cell_block_sums(change)
        if quarters is not None:
            total, cells = total + footprints.quarter_sums(quarters), cells + footprints.cell_quarter_sums(quarters)
        return _Bounds(np.minimum(total, UNBOUNDED), np.minimum(cells.reshape(self._cell_shape), UNBOUNDED))


def check_fits(signal: Signal, footprints: Footprints) -> None:
    """Raises MessageError when the signal's grids are not those of the picture that the token grid lies on."""
    if (signal.rows, signal.columns) != (footprints.block_rows, footprints.block_columns):
        grid = footprints.grid
        raise MessageError(
            f"signal of {signal.rows}x{signal.columns} blocks does not fit a picture of {grid.width}x{grid.height}"
        )
