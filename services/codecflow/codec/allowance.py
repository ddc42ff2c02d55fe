"""How much of the codec signal is published: metadata may take a fixed share of the stream's own bytes.

Grids come in several grades, and each signal picture gets the best one that fits. The choice depends only on the pictures:
publishing a file again gives the same grids.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from codecflow.messages import NO_BOUND, Grid, round_change
from codecflow.messages.grids import encode_blocks

from .tiles import Sums

SHARE = 0.07
"""Share of the coded pictures' bytes for metadata. The documented limit is 8 %: sizes are estimated, and short streams do
not average out."""

_PICTURE_BYTES = 10
_SECOND_BYTES = 170
"""Size of documents without grids, batched and compressed: per picture, and per second (the overhead of a batch and a
request, and the compressor's first pass over data that repeats later). Measured at 10 to 60 pictures/s."""

_SIGNAL_BYTES = 30
_SAVED_SIGNALS = 60
"""Limit on savings, in signals of the best grade: what a keyframe earns is spent over its GOP."""


@dataclass(frozen=True, slots=True)
class Grids:
    """What a signal publishes; see `Signal`."""

    change: Grid
    motion: Grid | None
    intra: Grid | None


@dataclass(frozen=True, slots=True)
class _Grade:
    """`floor`: smaller changes are rounded up to it. `reserve`: the balance must be this many times the grade's cost, so
    that the most important data is rarely missing."""

    floor: int
    motion: bool
    reserve: float


_GRADES = (
    _Grade(0, True, 6.0),
    _Grade(4, True, 4.0),
    _Grade(4, False, 3.0),
    _Grade(16, False, 1.0),
)


class Allowance:
    """Decides what each signal of one stream publishes."""

    def __init__(self) -> None:
        self._balance = 0.0
        self._best = 0.0

    def earn(self, coded_bytes: int) -> None:
        """A coded picture has arrived."""
        self._balance += SHARE * coded_bytes - _PICTURE_BYTES

    def pass_time(self, seconds: float) -> None:
        """The next picture is shown `seconds` after the one before."""
        self._balance -= _SECOND_BYTES * seconds
        if self._best:
            self._balance = max(min(self._balance, _SAVED_SIGNALS * self._best), -_SAVED_SIGNALS * self._best)

    def spend(self, bounds: Sums | None, motion: Grid | None, intra: Grid | None, shape: tuple[int, int]) -> Grids:
        """The grids of a signal picture. `bounds`: of the change to the reference, in eighths of a grey level; None if there
        is no reference. `shape`: (rows, columns)."""
        best = 0.0
        for grade in _GRADES:
            grids = _graded(grade, bounds, motion, intra, shape)
            size = _size(grids)
            best = max(best, size)
            if grade.reserve * size <= self._balance:
                break
        else:
            grids = Grids(np.full(shape, NO_BOUND, np.uint8), None, None)
            size = _size(grids)
        self._best = best
        self._balance -= size
        return grids


def _graded(
    grade: _Grade, bounds: Sums | None, motion: Grid | None, intra: Grid | None, shape: tuple[int, int]
) -> Grids:
    if not grade.motion:
        motion = intra = None
    if bounds is None:
        return Grids(np.full(shape, NO_BOUND, np.uint8), motion, intra)
    change = round_change(np.minimum(np.maximum(bounds, grade.floor), NO_BOUND).astype(np.uint8))
    return Grids(change, motion, intra)


def _size(grids: Grids) -> int:
    """Approximate size of the grids on the brokers, in bytes."""
    blocks = encode_blocks(grids.change, grids.motion, grids.intra)
    return _SIGNAL_BYTES + len(zlib.compress(blocks.encode(), 6))
