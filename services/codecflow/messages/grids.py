"""Codec-signal grids as text: one character per block.

Both grids are held to a few levels, rounded up, and the two levels of a block share one printable character: '#' plus ten
times the level of motion plus the level of change, the tenth level of motion saying that some picture had no vector there.
Change and motion go together, so the brokers' compression, which sees both at once, makes less of it than of two grids that
were deflated apart (docs/decisions/005). The tenth level of change says that the block's four quarters follow in a text of
their own, one character per quarter (docs/decisions/012).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codecflow.errors import MessageError

Grid = npt.NDArray[np.uint8]
"""(rows, columns) uint8: one value per 16x16 block of luma samples of the coded picture."""

CHANGE_LEVELS = (0, 4, 8, 12, 16, 24, 32, 64, 255)
"""Eighths of a grey level. Fine where a threshold of a few grey levels is decided; beyond 8 grey levels no bound."""

QUARTER_LEVELS = (*range(0, 16, 4), *range(16, 40, 2), *range(40, 64, 4), *range(64, 128, 8), *range(128, 255, 16))
"""Eighths of a grey level, of a quarter of a block."""

MOTION_LEVELS = (0, 1, 2, 4, 8, 16, 32, 255)
"""Quarter pixels. 255: longer than 8 pixels, or no vector in some inter picture."""

_FIRST = ord("#")
_INTRA = 8
_DETAIL = len(CHANGE_LEVELS)
_CHANGES = len(CHANGE_LEVELS) + 1
_SYMBOLS = _CHANGES * (_INTRA + 1)


def _next_level(levels: tuple[int, ...]) -> Grid:
    """(256,) uint8: index of the lowest level that is not below each value; the last where all are."""
    return np.minimum(np.searchsorted(levels, np.arange(256)), len(levels) - 1).astype(np.uint8)


_CHANGE_INDEX, _MOTION_INDEX, _QUARTER_INDEX = map(_next_level, (CHANGE_LEVELS, MOTION_LEVELS, QUARTER_LEVELS))
_CHANGE_VALUE = np.array(CHANGE_LEVELS, np.uint8)
_QUARTER_VALUE = np.array(QUARTER_LEVELS, np.uint8)
_MOTION_VALUE = np.array((*MOTION_LEVELS, 255), np.uint8)


# By character, as tables of bytes.translate; what stands for no levels is refused before.
_LEVELS = np.clip(np.arange(256) - _FIRST, 0, _SYMBOLS - 1)
_CHANGE_OF = np.append(_CHANGE_VALUE, np.uint8(255))[_LEVELS % _CHANGES].tobytes()
_DETAIL_OF = (_LEVELS % _CHANGES == _DETAIL).astype(np.uint8).tobytes()
_MOTION_OF = _MOTION_VALUE[_LEVELS // _CHANGES].tobytes()
_INTRA_OF = (_LEVELS // _CHANGES == _INTRA).astype(np.uint8).tobytes()
_CHARACTERS = bytes(range(_FIRST, _FIRST + _SYMBOLS))
_QUARTER_OF = _QUARTER_VALUE[np.clip(np.arange(256) - _FIRST, 0, len(QUARTER_LEVELS) - 1)].tobytes()
_QUARTER_CHARACTERS = bytes(range(_FIRST, _FIRST + len(QUARTER_LEVELS)))


def round_change(change: Grid) -> Grid:
    """The lowest level that is not below each value: a bound stays a bound."""
    return _CHANGE_VALUE[_CHANGE_INDEX[change]]


def round_quarters(quarters: Grid) -> Grid:
    """The lowest level that is not below each value. Values above the highest level are the caller's to leave out."""
    return _QUARTER_VALUE[_QUARTER_INDEX[quarters]]


def round_motion(motion: Grid, intra: Grid) -> Grid:
    """The lowest level that is not below each value; 255 where `intra` says that a vector is lacking."""
    return np.where(intra > 0, np.uint8(255), _MOTION_VALUE[_MOTION_INDEX[motion]])


def detailed(quarters: Grid) -> npt.NDArray[np.bool_]:
    """(rows, columns) bool: blocks whose quarters are known, given (2 * rows, 2 * columns) in which others are 255."""
    return np.asarray(quarters[::2, ::2] != 255)


def encode_blocks(change: Grid, motion: Grid | None, intra: Grid | None, quarters: Grid | None) -> tuple[str, str]:
    """Text of the grids, row by row, and of the quarters of blocks in detail, block by block. Values between levels are
    rounded up."""
    symbols = _CHANGE_INDEX[change]
    detail = ""
    if quarters is not None:
        mask = detailed(quarters)
        symbols[mask] = _DETAIL
        rows, columns = change.shape
        of_blocks = quarters.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3)[mask]
        detail = (_QUARTER_INDEX[of_blocks] + np.uint8(_FIRST)).tobytes().decode("ascii")
    if motion is not None and intra is not None:
        symbols = symbols + np.where(intra > 0, _INTRA, _MOTION_INDEX[motion]).astype(np.uint8) * _CHANGES
    return (symbols + np.uint8(_FIRST)).tobytes().decode("ascii"), detail


def decode_blocks(text: str, detail: str, rows: int, columns: int) -> tuple[Grid, Grid, Grid, Grid | None]:
    """(change, motion, intra), each (rows, columns), and (2 * rows, 2 * columns) quarters, 255 but in blocks in detail,
    whose change is that of their largest quarter; None where none is. Raises MessageError when the texts do not hold
    exactly that."""
    if len(text) != rows * columns:
        raise MessageError(f"metadata: {rows}x{columns} blocks are expected, got {len(text)} characters")
    symbols = text.encode()
    if symbols.translate(None, _CHARACTERS):
        raise MessageError("metadata: a character among the blocks stands for no levels")
    change, motion, intra = (
        np.frombuffer(symbols.translate(table), np.uint8).reshape(rows, columns)
        for table in (_CHANGE_OF, _MOTION_OF, _INTRA_OF)
    )
    mask = np.frombuffer(symbols.translate(_DETAIL_OF), np.bool_).reshape(rows, columns)
    count = int(mask.sum())
    if len(detail) != 4 * count:
        raise MessageError(
            f"metadata: {count} blocks are in detail, which takes {4 * count} characters, not {len(detail)}"
        )
    if not count:
        return change, motion, intra, None
    of_quarters = detail.encode()
    if of_quarters.translate(None, _QUARTER_CHARACTERS):
        raise MessageError("metadata: a character in the detail stands for no level")
    values = np.frombuffer(of_quarters.translate(_QUARTER_OF), np.uint8).reshape(-1, 2, 2)
    blocks = np.full((rows, columns, 2, 2), 255, np.uint8)
    blocks[mask] = values
    change = change.copy()
    change[mask] = values.max((1, 2))
    return change, motion, intra, blocks.transpose(0, 2, 1, 3).reshape(2 * rows, 2 * columns)
