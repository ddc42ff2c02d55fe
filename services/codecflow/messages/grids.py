"""Codec-signal grids as text: one byte a block, deflated, then base64."""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy as np
import numpy.typing as npt

from codecflow.errors import MessageError

Grid = npt.NDArray[np.uint8]
"""(rows, columns) uint8: one value a 16x16 block of luma samples of the coded picture."""


def encode_grid(grid: Grid) -> str:
    """Text of a (rows, columns) uint8 grid."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(grid).tobytes(), 9)).decode()


def decode_grid(text: str, rows: int, columns: int) -> Grid:
    """Inverse of `encode_grid`. Raises MessageError when the text does not hold exactly rows x columns values."""
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), rows * columns + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise MessageError(f"metadata: unreadable grid ({error})") from error
    if len(raw) != rows * columns:
        raise MessageError(f"metadata: a grid of {rows}x{columns} blocks is expected, got {len(raw)} values")
    return np.frombuffer(raw, np.uint8).reshape(rows, columns)
