"""Codec-signal grids as text: one character per block.

Both grids are reduced to a few levels, rounded up, and the two levels of a block share one printable character: '#' plus ten
times the level of motion plus the level of change; the tenth level of motion means that some picture had no vector there.
Change and motion are correlated, so the brokers' compression, which sees both at once, makes them smaller than two grids
deflated separately (docs/decisions/005).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codecflow.errors import MessageError

Grid = npt.NDArray[np.uint8]
"""(rows, columns) uint8: one value per 16x16 block of luma samples of the coded picture."""

CHANGE_LEVELS = (0, 4, 8, 12, 16, 24, 32, 48, 64, 255)
"""Eighths of a grey level. Fine near thresholds of a few grey levels; no bound beyond 8 grey levels."""

MOTION_LEVELS = (0, 1, 2, 4, 8, 16, 32, 255)
"""Quarter pixels. 255: longer than 8 pixels, or no vector in some inter picture."""

_FIRST = ord("#")
_INTRA = 8
_CHANGES = len(CHANGE_LEVELS)
_SYMBOLS = _CHANGES * (_INTRA + 1)


def _next_level(levels: tuple[int, ...]) -> Grid:
    """(256,) uint8: index of the lowest level that is not below each value; the last one if all are."""
    return np.minimum(np.searchsorted(levels, np.arange(256)), len(levels) - 1).astype(np.uint8)


_CHANGE_INDEX, _MOTION_INDEX = map(_next_level, (CHANGE_LEVELS, MOTION_LEVELS))
_CHANGE_VALUE = np.array(CHANGE_LEVELS, np.uint8)
_MOTION_VALUE = np.array((*MOTION_LEVELS, 255), np.uint8)


# By character, as tables for bytes.translate; characters without levels are refused earlier.
_LEVELS = np.clip(np.arange(256) - _FIRST, 0, _SYMBOLS - 1)
_CHANGE_OF = _CHANGE_VALUE[_LEVELS % _CHANGES].tobytes()
_MOTION_OF = _MOTION_VALUE[_LEVELS // _CHANGES].tobytes()
_INTRA_OF = (_LEVELS // _CHANGES == _INTRA).astype(np.uint8).tobytes()
_CHARACTERS = bytes(range(_FIRST, _FIRST + _SYMBOLS))


def round_change(change: Grid) -> Grid:
    """The lowest level that is not below each value: a bound stays a bound."""
    return _CHANGE_VALUE[_CHANGE_INDEX[change]]


def round_motion(motion: Grid, intra: Grid) -> Grid:
    """The lowest level that is not below each value; 255 where `intra` says that a vector is missing."""
    return np.where(intra > 0, np.uint8(255), _MOTION_VALUE[_MOTION_INDEX[motion]])


def encode_blocks(change: Grid, motion: Grid | None, intra: Grid | None) -> str:
    """Text of the grids, row by row. Values between levels are rounded up."""
    symbols = _CHANGE_INDEX[change]
    if motion is not None and intra is not None:
        symbols = symbols + np.where(intra > 0, _INTRA, _MOTION_INDEX[motion]).astype(np.uint8) * _CHANGES
    return (symbols + np.uint8(_FIRST)).tobytes().decode("ascii")


def decode_blocks(text: str, rows: int, columns: int) -> tuple[Grid, Grid, Grid]:
    """(change, motion, intra), each (rows, columns). Raises MessageError when the text does not hold exactly that."""
    if len(text) != rows * columns:
        raise MessageError(f"metadata: {rows}x{columns} blocks are expected, got {len(text)} characters")
    symbols = text.encode()
    if symbols.translate(None, _CHARACTERS):
        raise MessageError("metadata: an invalid character among the blocks")
    change, motion, intra = (
        np.frombuffer(symbols.translate(table), np.uint8).reshape(rows, columns)
        for table in (_CHANGE_OF, _MOTION_OF, _INTRA_OF)
    )
    return change, motion, intra
