"""Where each token of the language model lies in the coded picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecflow.orientation import UPRIGHT, coded_boxes, shown_size


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The tokens of one frame, row by row, and the luma samples of the coded picture that each of them covers.

    `boxes`: (rows * columns, 4) int32, half-open (x0, y0, x1, y1) in luma samples of the coded picture, rounded outwards,
    clipped to the picture, never empty. Boxes of neighbours may overlap (families whose pooling overlaps).
    """

    rows: int
    columns: int
    width: int
    height: int
    boxes: npt.NDArray[np.int32]

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @staticmethod
    def regular(rows: int, columns: int, width: int, height: int) -> TokenGrid:
        """A regular grid over a picture of width x height luma samples."""
        x = np.arange(columns + 1) * width
        y = np.arange(rows + 1) * height
        x0, x1 = x[:-1] // columns, -(-x[1:] // columns)
        y0, y1 = y[:-1] // rows, -(-y[1:] // rows)
        boxes = np.stack(
            [np.tile(x0, rows), np.repeat(y0, columns), np.tile(x1, rows), np.repeat(y1, columns)], axis=1
        ).astype(np.int32)
        return TokenGrid(rows, columns, width, height, boxes)

    def oriented(self, orientation: int) -> TokenGrid:
        """This grid, defined on the shown picture, mapped to the coded picture that `orientation` turns upright.

        Tokens keep the order of the shown picture, and so do `rows` and `columns`; `width`, `height` and `boxes` become
        those of the coded picture.
        """
        if orientation == UPRIGHT:
            return self
        width, height = shown_size(self.width, self.height, orientation)
        return TokenGrid(self.rows, self.columns, width, height, coded_boxes(self.boxes, width, height, orientation))
