"""Motion vectors of pictures as grids of blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.frame import PictureType, VideoFrame

from codecflow.messages import BLOCK, Grid, round_motion

from .pictures import side_data

VECTOR_CODECS = frozenset({"h264", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "mpeg1video", "mpeg2video", "h263"})
"""Codecs whose FFmpeg decoders export vectors. Measured: HEVC, VP9, AV1 and MJPEG export none."""

_LARGEST = 255**2
_SHIFT = BLOCK.bit_length() - 1

# Positions of dst_x and dst_y, motion_x and motion_y, and motion_scale in AVMotionVector (libavutil/motion_vector.h), in
# words of 8 bytes. PyAV's own to_ndarray builds the record's dtype for each picture, which takes longer than everything
# below.
_CENTRE_WORD, _CENTRE_X, _CENTRE_Y = 1, 1, 2
_MOTION_WORD, _SCALE_WORD = 3, 4


class VectorGrid:
    """The largest vector over each block, and the blocks without inter prediction, over several pictures.

    Every vector that FFmpeg exports belongs to a partition of one 16x16 macroblock (or to all of it) and gives its centre,
    so it lies in exactly one block.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._rows, self._columns = rows, columns
        self._squares = np.zeros(rows * columns, np.int32)  # of lengths in quarter pixels
        self._intra = np.zeros(rows * columns, np.bool_)

    def add(self, frame: VideoFrame) -> None:
        """Adds one shown picture."""
        if frame.pict_type not in (PictureType.P, PictureType.B, PictureType.S):
            return
        predicted = np.zeros(self._rows * self._columns, np.bool_)
        vectors = side_data(frame, Type.MOTION_VECTORS)
        if vectors is not None:
            self._add(np.frombuffer(vectors, np.int64).reshape(len(vectors), -1), predicted)
        self._intra |= ~predicted

    def _add(self, words: npt.NDArray[np.int64], predicted: npt.NDArray[np.bool_]) -> None:
        """Adds one picture's AVMotionVector records, (vectors, 5); sets the blocks that they cover in `predicted`."""
        # Thousands of records of 40 bytes: each of the two words that matter is read once, the rest is never touched.
        centre = words[:, _CENTRE_WORD].copy().view(np.int16).reshape(-1, 4) >> _SHIFT
        motion = words[:, _MOTION_WORD].copy().view(np.int32).reshape(-1, 2)
        row, column = centre[:, _CENTRE_Y], centre[:, _CENTRE_X]
        block = row.astype(np.intp) * self._columns + column
        motion *= motion
        squares = motion[:, 0] + motion[:, 1]
        if row.max() >= self._rows or column.max() >= self._columns:
            # Macroblocks beyond a cropped edge are coded but not shown.
            inside = (row < self._rows) & (column < self._columns)
            block, squares = block[inside], squares[inside]
        predicted[block] = True
        scale = int(words[0, _SCALE_WORD]) & 0xFFFF  # constant within a picture: 4 in H.264, 2 or 4 in MPEG-4
        squares *= (4 // scale) ** 2
        np.minimum(squares, _LARGEST, out=squares)
        # With several vectors over one block, an assignment keeps any of them; larger ones are assigned in another round.
        while True:
            larger = (squares > self._squares[block]).nonzero()[0]
            if not len(larger):
                return
            block, squares = block[larger], squares[larger]
            self._squares[block] = squares

    def grids(self) -> tuple[Grid, Grid]:
        """(motion, intra), each (rows, columns) uint8, as in `Signal`: the length of the largest vector in whole quarter
        pixels, rounded up to the next level; 1 where some inter picture has no vector."""
        shape = (self._rows, self._columns)
        intra = self._intra.astype(np.uint8).reshape(shape)
        return round_motion(np.sqrt(self._squares).astype(np.uint8).reshape(shape), intra), intra
