"""Which way up a picture is shown: the eight orientations of EXIF, for arrays and for boxes.

An orientation is the transform from the coded picture to the upright one: 1 none, 2 mirror left and right, 3 rotate by 180
degrees, 4 mirror top and bottom, 5 transpose, 6 rotate 90 degrees clockwise, 7 transpose along the other diagonal, 8 rotate
90 degrees counter-clockwise (EXIF 2.32, tag 0x0112).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

UPRIGHT = 1
ORIENTATIONS = range(1, 9)

# For each: (swap the axes?, from the right?, from the bottom?). Coded x runs along shown x, or along shown y if the axes
# are swapped. The flags say whether coded x runs from the right, and coded y from the bottom.
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

# Matrix (a, b, c, d) of each: coded (x, y) is shown at (a x + c y, b x + d y), y pointing down.
_MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}

Element = TypeVar("Element", bound=np.generic)


def upright(picture: npt.NDArray[Element], orientation: int) -> npt.NDArray[Element]:
    """The shown picture of a coded one (height, width, ...): a view, with the first two axes swapped for orientations 5 to
    8."""
    swap, right, bottom = _TURNS[orientation]
    turned = picture[:: -1 if bottom else 1, :: -1 if right else 1]
    return turned.swapaxes(0, 1) if swap else turned


def shown_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) of the shown picture from those of the coded one, and vice versa."""
    return (height, width) if _TURNS[orientation][0] else (width, height)


def matrix(orientation: int) -> tuple[int, int, int, int]:
    """(a, b, c, d): coded (x, y) is shown at (a x + c y, b x + d y), y pointing down."""
    return _MATRICES[orientation]


def inverse(orientation: int) -> int:
    """The orientation that undoes another."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def coded_boxes(boxes: npt.NDArray[np.int32], width: int, height: int, orientation: int) -> npt.NDArray[np.int32]:
    """Maps boxes of the shown picture to the coded one.

    `boxes`: (n, 4) half-open (x0, y0, x1, y1) in samples of the shown picture. `width`, `height`: of the coded picture.
    """
    swap, right, bottom = _TURNS[orientation]
    x0, y0, x1, y1 = boxes[:, [1, 0, 3, 2]].T if swap else boxes.T
    if right:
        x0, x1 = width - x1, width - x0
    if bottom:
        y0, y1 = height - y1, height - y0
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Nearest:
    """The orientation nearest to a transform. `off`: degrees by which its axes miss those of the orientation."""

    orientation: int
    off: float


def nearest(matrix: Sequence[float]) -> Nearest:
    """The orientation nearest to (a, b, c, d), which shows the coded point (x, y) at (a x + c y, b x + d y), y down.

    Scale is ignored. A matrix that maps everything to a line or a point counts as upright.
    """
    a, b, c, d = matrix
    lengths = math.hypot(a, b), math.hypot(c, d)
    if not all(math.isfinite(length) and length > 0 for length in lengths) or a * d == b * c:
        return Nearest(UPRIGHT, 0.0)
    unit = (a / lengths[0], b / lengths[0], c / lengths[1], d / lengths[1])

    def off(orientation: int) -> float:
        p, q, r, s = _MATRICES[orientation]
        cosines = unit[0] * p + unit[1] * q, unit[2] * r + unit[3] * s
        return max(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) for cosine in cosines)

    best = min(ORIENTATIONS, key=off)
    return Nearest(best, round(off(best), 2))
