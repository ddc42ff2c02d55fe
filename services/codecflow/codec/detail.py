"""How much of the codec signal is published: as much as a share of the stream's own bytes pays for.

A bound that certifies a token needs detail where the picture is noisy, and none where it is still or where everything moves.
So grids come in several grades, and each signal picture gets the best one that fits. It depends on the pictures alone:
whoever publishes a file again publishes the same.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from codecflow.messages import NO_BOUND, QUARTER_LEVELS, Grid, round_change, round_quarters
from codecflow.messages.grids import encode_blocks

from .blocks import Differences

SHARE = 0.07
"""Of the coded pictures' bytes, for metadata. The promise is 8 %: sizes are estimated, and short streams have no average."""

_PICTURE_BYTES = 10
_SECOND_BYTES = 170
"""What documents take without grids, batched and compressed: for each picture, and for each second (a batch's and a
request's own bytes, and the compressor's first pass over what it will see again). Measured, 10 to 60 pictures/s."""

_SIGNAL_BYTES = 30
_SAVED_SIGNALS = 60
"""So many signals' worth of the best grade may be saved up: what a keyframe brings is spent over its GOP."""

_NOISE = 16
"""Blocks that differ by more than this, in eighths of a grey level, are published in detail: what certifies a token that
overlaps them in part. Blocks below have little to say."""

_MOST_DETAIL = 0.3
"""Share of blocks: with more of them in detail pixels will be needed anyway."""


@dataclass(frozen=True, slots=True)
class Grids:
    """What a signal publishes; see `Signal`."""

    change: Grid
    quarters: Grid | None
    motion: Grid | None
    intra: Grid | None


@dataclass(frozen=True, slots=True)
class _Grade:
    """`floor`: smaller changes are rounded up to it. `reserve`: the balance must be so many times what it takes, so that
    what matters most is seldom missing."""

    floor: int
    detail: bool
    motion: bool
    reserve: float


_GRADES = (
    _Grade(0, True, True, 6.0),
    _Grade(8, True, True, 4.0),
    _Grade(8, True, False, 3.0),
    _Grade(16, True, False, 1.0),
    _Grade(16, False, False, 1.0),
)


class Allowance:
    """Decides what each signal of one stream publishes."""

    def __init__(self) -> None:
        self._balance = 0.0
        self._best = 0.0

    def earn(self, coded_bytes: int) -> None:
        """A coded picture has come."""
        self._balance += SHARE * coded_bytes - _PICTURE_BYTES

    def pass_time(self, seconds: float) -> None:
        """The next picture is shown `seconds` after the one before."""
        self._balance -= _SECOND_BYTES * seconds
        if self._best:
            self._balance = max(min(self._balance, _SAVED_SIGNALS * self._best), -_SAVED_SIGNALS * self._best)

    def spend(
        self, differences: Differences | None, motion: Grid | None, intra: Grid | None, shape: tuple[int, int]
    ) -> Grids:
        """The grids of a signal picture. `differences`: to the reference; None where there is none. `shape`: (rows,
        columns)."""
        best = 0.0
        for grade in _GRADES:
            grids = _graded(grade, differences, motion, intra, shape)
            size = _size(grids)
            best = max(best, size)
            if grade.reserve * size <= self._balance:
                break
        else:
            grids = Grids(np.full(shape, NO_BOUND, np.uint8), None, None, None)
            size = _size(grids)
        self._best = best
        self._balance -= size
        return grids


def _graded(
    grade: _Grade, differences: Differences | None, motion: Grid | None, intra: Grid | None, shape: tuple[int, int]
) -> Grids:
    if not grade.motion:
        motion = intra = None
    if differences is None:
        return Grids(np.full(shape, NO_BOUND, np.uint8), None, motion, intra)
    change = round_change(np.minimum(np.maximum(differences.change, grade.floor), NO_BOUND).astype(np.uint8))
    quarters = _quarters(differences, change) if grade.detail else None
    return Grids(change, quarters, motion, intra)


def _quarters(differences: Differences, change: Grid) -> Grid | None:
    """The quarters of noisy blocks; None where no token of theirs can be certified in the whole picture anyway."""
    rows, columns = change.shape
    largest = differences.quarters.reshape(rows, 2, columns, 2).max((1, 3))
    noisy = (differences.change > _NOISE) & (largest <= QUARTER_LEVELS[-1])
    if not noisy.any() or noisy.mean() > _MOST_DETAIL or (change == NO_BOUND).any():
        return None
    values = round_quarters(np.minimum(differences.quarters, NO_BOUND).astype(np.uint8))
    return np.where(np.repeat(np.repeat(noisy, 2, 0), 2, 1), values, np.uint8(NO_BOUND))


def _size(grids: Grids) -> int:
    """Bytes that the grids take on the brokers, about."""
    blocks, detail = encode_blocks(grids.change, grids.motion, grids.intra, grids.quarters)
    return _SIGNAL_BYTES + len(zlib.compress(f"{blocks}{detail}".encode(), 6))
