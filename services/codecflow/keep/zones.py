"""Zones over a picture: which tokens the model never sees, and which samples are blanked before it sees the others.

Tokens that an `ignore` zone touches are hidden. A picture is resized for the model, and resizing mixes a few samples across
the edges of tokens; so the samples of the zone itself are blanked first, and none of them can reach a nearby token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid
from codecflow.messages import Zone

MARGIN = 2
"""Margin of samples around an `ignore` zone: chroma has half the resolution of luma, and is mixed at its edge."""

BLANK = 128
"""Red, green and blue: mid grey, to which a model reacts least."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ZoneView:
    """What zones leave of a picture. `hidden`: (tokens,) bool, never kept. `blank`: (rows, columns) bool of the samples that
    are blanked, from (`top`, `left`) of the shown picture; None if there is no `ignore` zone."""

    hidden: Mask
    blank: Mask | None = None
    top: int = 0
    left: int = 0

    def blanked(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A shown picture (height, width, 3), or a copy of it with the zones blanked."""
        if self.blank is None:
            return rgb
        rows, columns = self.blank.shape
        rgb = rgb.copy()
        rgb[self.top : self.top + rows, self.left : self.left + columns][self.blank] = BLANK
        return rgb


def view_of(zones: Sequence[Zone], grid: TokenGrid) -> ZoneView:
    """What `zones` leave of a picture, given its tokens: `grid` lies over the picture as it is shown."""
    shape = grid.height, grid.width
    hidden = np.zeros(grid.tokens, bool)
    ignored = [zone for zone in zones if zone.use == "ignore"]
    only = [zone for zone in zones if zone.use == "only"]
    if only:
        hidden = ~_touched(grid, _samples(only, shape))
    if not ignored:
        return ZoneView(hidden)
    blank = _grown(_samples(ignored, shape))
    hidden |= _touched(grid, blank)
    rows, columns = np.flatnonzero(blank.any(1)), np.flatnonzero(blank.any(0))
    top, left = int(rows[0]), int(columns[0])
    return ZoneView(hidden, blank[top : rows[-1] + 1, left : columns[-1] + 1].copy(), top, left)


def _touched(grid: TokenGrid, samples: Mask) -> Mask:
    """(tokens,) bool: whether any of `samples` lies under a token."""
    return np.array([samples[y0:y1, x0:x1].any() for x0, y0, x1, y1 in grid.boxes])


def _samples(zones: Sequence[Zone], shape: tuple[int, int]) -> Mask:
    """(height, width) bool: samples whose centre lies within some zone, or that an edge of it passes through."""
    height, width = shape
    found = np.zeros(shape, bool)
    for zone in zones:
        corners = np.array(zone.polygon, np.float64) * (width, height)
        found |= _inside(corners, shape)
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
            along = np.linspace(0, 1, 2 + 2 * int(max(abs(bx - ax), abs(by - ay))))
            x = np.clip((ax + along * (bx - ax)).astype(np.int64), 0, width - 1)
            y = np.clip((ay + along * (by - ay)).astype(np.int64), 0, height - 1)
            found[y, x] = True
    return found


def _inside(corners: npt.NDArray[np.float64], shape: tuple[int, int]) -> Mask:
    """(height, width) bool: samples whose centre lies within a polygon of (x, y) in samples."""
    height, width = shape
    toggled = np.zeros((height, width + 1), bool)
    centres = np.arange(height) + 0.5
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        rows = np.flatnonzero((ay <= centres) != (by <= centres))
        if rows.size:
            x = ax + (centres[rows] - ay) * (bx - ax) / (by - ay)
            toggled[rows, np.clip(np.ceil(x - 0.5).astype(np.int64), 0, width)] ^= True
    return np.asarray(np.logical_xor.accumulate(toggled, axis=1)[:, :width])


def _grown(samples: Mask) -> Mask:
    """All samples within MARGIN of one of them."""
    grown = samples.copy()
    for axis in (0, 1):
        wide = grown.copy()
        for by in range(1, MARGIN + 1):
            low, high = [slice(None)] * 2, [slice(None)] * 2
            low[axis], high[axis] = slice(None, -by), slice(by, None)
            wide[tuple(high)] |= grown[tuple(low)]
            wide[tuple(low)] |= grown[tuple(high)]
        grown = wide
    return grown
