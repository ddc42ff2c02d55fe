"""Pictures as JPEG: thumbnails for the grid, and one or two per second of codecs that no browser plays."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from PIL import Image

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.pictures import MAX_PIXELS
from codecflow.messages import CodedPicture

TILE_WIDTH, LARGE_WIDTH = 384, 1280
"""Maximum pixels of a JPEG."""

JPEG_EVERY = Fraction(1, 2)
"""Seconds of presentation time between two large ones."""


def jpeg(rgb: npt.NDArray[np.uint8], width: int, quality: int = 80) -> bytes:
    """(height, width, 3) uint8 as JPEG, scaled down to at most `width` pixels."""
    image = Image.fromarray(rgb)
    if image.width > width:
        image = image.resize((width, max(1, image.height * width // image.width)), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def tile(keyframe: CodedPicture) -> bytes | None:
    """A keyframe as a thumbnail JPEG; None if it cannot be decoded by itself."""
    if keyframe.width * keyframe.height > MAX_PIXELS:
        return None
    decoder = Decoder()
    shown = decoder.push(keyframe) + decoder.flush()
    return jpeg(shown[0].rgb(), TILE_WIDTH) if shown else None


class Stills:
    """Large JPEGs of one stream, given all of its pictures in decode order."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._epoch: int | None = None
        self._due: Fraction | None = None

    def push(self, picture: CodedPicture) -> list[tuple[ShownPicture, bytes]]:
        """The pictures that are due, each with its JPEG."""
        if picture.epoch != self._epoch:
            self._epoch, self._decoder, self._due = picture.epoch, Decoder(), None
        found = []
        for shown in self._decoder.push(picture):
            time = shown.pts * shown.picture.time_base
            if self._due is None or time >= self._due or time < self._due - 2 * JPEG_EVERY:
                self._due = time + JPEG_EVERY
                found.append((shown, jpeg(shown.rgb(), LARGE_WIDTH)))
        return found
