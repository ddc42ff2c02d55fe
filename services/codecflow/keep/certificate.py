"""The bound by which the codec signal alone shows that a token has not changed.

For signal pictures p0 (in which a token was last kept) to pn, and D_i(b) the sum of |p_i - p_(i-1)| over the pixels of block
b, the triangle inequality gives, for any box B and the blocks that it touches,

    sum over B of |pn - p0|  <=  sum over i of the sum over those blocks b of D_i(b)

and a signal's `change` is an upper bound of D_i(b) / pixels of b. So the pixels of the blocks times their change, added up
over blocks and signals, bound the pixels' sum: a theorem, in whole eighths of a grey level, with nothing rounded.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from codecflow.errors import MessageError
from codecflow.messages import NO_BOUND, Signal

from .boxes import Footprints, Ints

EIGHTHS = 8
"""Units of `change` in a grey level."""

UNBOUNDED = 1 << 40
"""A bound that no threshold reaches: above 255 grey levels over any picture, in eighths, and safe to add in 64 bits."""


class Certificate:
    """Upper bounds of each token's summed luma difference to what was last kept, over the footprint and over its cells.

    `total`: (tokens,), `cells`: (tokens, rows, columns), int64: sums over pixels, in eighths of a grey level.
    """

    def __init__(self, footprints: Footprints, threshold: float, detail_threshold: float) -> None:
        self._footprints = footprints
        self.total: Ints = np.full(footprints.areas.shape, UNBOUNDED, np.int64)
        self.cells: Ints = np.full((footprints.areas.size, *footprints.cell_shape), UNBOUNDED, np.int64)
        self._limit = np.floor(threshold * EIGHTHS * footprints.areas).astype(np.int64)
        self._cell_limit = math.floor(detail_threshold * EIGHTHS * footprints.cell[0] * footprints.cell[1])

    def accumulate(self, signal: Signal | None) -> None:
        """Add what changed since the frame before; None, a missing signal, bounds nothing."""
        if signal is None:
            self.total[:] = UNBOUNDED
            self.cells[:] = UNBOUNDED
            return
        check_fits(signal, self._footprints)
        change = signal.change.astype(np.int64) * self._footprints.block_pixels
        change[signal.change == NO_BOUND] = UNBOUNDED
        self.total = np.minimum(self.total + self._footprints.block_sums(change), UNBOUNDED)
        cells = self._footprints.cell_block_sums(change).reshape(self.cells.shape)
        self.cells = np.minimum(self.cells + cells, UNBOUNDED)

    def within(self) -> npt.NDArray[np.bool_]:
        """(tokens,) bool: tokens that the bounds show to be within both thresholds."""
        return np.logical_and(self.mean_within(), np.all(self.cells <= self._cell_limit, axis=(1, 2)))

    def mean_within(self) -> npt.NDArray[np.bool_]:
        """(tokens,) bool: tokens whose mean over the footprint the bound shows to be within the threshold."""
        return np.asarray(self.total <= self._limit)

    def measured_within(self, tokens: Ints, differences: Ints) -> npt.NDArray[np.bool_]:
        """(n,) bool: whether measured sums over the cells, (n, rows, columns) in grey levels, are within both thresholds.

        The bounds of `tokens` restart at what was measured.
        """
        self.cells[tokens] = differences * EIGHTHS
        self.total[tokens] = self.cells[tokens].sum((1, 2))
        return self.within()[tokens]

    def restart(self, tokens: Ints) -> None:
        """`tokens` are kept now: their difference to what was last kept is zero."""
        self.total[tokens] = 0
        self.cells[tokens] = 0


def check_fits(signal: Signal, footprints: Footprints) -> None:
    """Raises MessageError when the signal's grids are not those of the picture that the token grid lies on."""
    if (signal.rows, signal.columns) != (footprints.block_rows, footprints.block_columns):
        grid = footprints.grid
        raise MessageError(
            f"signal of {signal.rows}x{signal.columns} blocks does not fit a picture of {grid.width}x{grid.height}"
        )
