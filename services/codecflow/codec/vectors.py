"""The motion vectors of pictures as grids of blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.frame import PictureType, VideoFrame

from codecflow.messages import BLOCK, Grid, round_motion

VECTOR_CODECS = frozenset({"h264", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "mpeg1video", "mpeg2video", "h263"})
"""Codecs whose decoders in FFmpeg export vectors. Measured: HEVC, VP9, AV1 and MJPEG export none."""

_LARGEST = 255**2


class VectorGrid:
    """The largest vector over each block, and the blocks that inter pictures did not predict, over several pictures.

    Every vector that FFmpeg exports is that of a partition of one 16x16 macroblock (or of all of it) and names its
    centre, so it lies in exactly one block.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._rows, self._columns = rows, columns
        self._squares = np.zeros(rows * columns, np.int32)  # of lengths in quarter pixels
        self._intra = np.zeros(rows * columns, np.bool_)

    def add(self, frame: VideoFrame) -> None:
        """Takes in one shown picture."""
        if frame.pict_type not in (PictureType.P, PictureType.B, PictureType.S):
            return
        predicted = np.zeros(self._rows * self._columns, np.bool_)
        side_data = frame.side_data.get(Type.MOTION_VECTORS)  # type: ignore[call-overload]
        if side_data is not None:
            vectors = side_data.to_ndarray()
            self._add(vectors, predicted)
        self._intra |= ~predicted

    def _add(self, vectors: npt.NDArray[np.void], predicted: npt.NDArray[np.bool_]) -> None:
        x, y = vectors["motion_x"], vectors["motion_y"]
        row, column = vectors["dst_y"] // BLOCK, vectors["dst_x"] // BLOCK
        block = row.astype(np.intp) * self._columns + column
        if row.max() >= self._rows or column.max() >= self._columns or row.min() < 0 or column.min() < 0:
            # Macroblocks beyond a cropped edge are coded but not shown.
            inside = (row >= 0) & (row < self._rows) & (column >= 0) & (column < self._columns)
            block, x, y, vectors = block[inside], x[inside], y[inside], vectors[inside]
            if not len(vectors):
                return
        predicted[block] = True
        to_quarters = 4 // int(vectors["motion_scale"][0])
        squares = np.minimum((x * x + y * y) * to_quarters**2, _LARGEST)
        # Of several vectors over one block, an assignment keeps any; those that are larger still go another round.
        while True:
            larger = np.flatnonzero(squares > self._squares[block])
            if not len(larger):
                return
            block, squares = block[larger], squares[larger]
            self._squares[block] = squares

    def grids(self) -> tuple[Grid, Grid]:
        """(motion, intra), each (rows, columns) uint8, as `Signal` has them: the length of the largest vector in whole
        quarter pixels, then up to the next level; 1 where some inter picture has no vector."""
        shape = (self._rows, self._columns)
        intra = self._intra.astype(np.uint8).reshape(shape)
        return round_motion(np.sqrt(self._squares).astype(np.uint8).reshape(shape), intra), intra
