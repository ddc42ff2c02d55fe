"""The worker's side: published pictures back to frames, in presentation order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from codecflow.messages import CodedPicture, Signal
from codecflow.orientation import shown_size, upright

from .nvdec import on_cpu
from .pictures import DecodedPicture, PictureDecoder, luma, matches


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """One shown picture of an epoch. Its samples are converted only on demand.

    `width`, `height`: of the coded picture, as are the samples of `luma`. `size`: of the shown one, as is `rgb`.
    """

    seq: int
    pts: int
    picture: CodedPicture
    frame: VideoFrame

    @property
    def width(self) -> int:
        return int(self.frame.width)

    @property
    def height(self) -> int:
        return int(self.frame.height)

    @property
    def orientation(self) -> int:
        """The transform from the coded picture to the shown one (EXIF, 1 to 8)."""
        return self.picture.orientation

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture as it is shown: upright."""
        return shown_size(self.width, self.height, self.orientation)

    def luma(self) -> npt.NDArray[np.uint8]:
        """(height, width) uint8 of the coded picture, read-only; bit for bit what
        the producer's signal was computed from."""
        return luma(self.frame)

    def matches(self, signal: Signal) -> bool:
        """Whether the luma samples are those on which `signal`, of this picture, was measured; otherwise it bounds
        nothing."""
        return matches(self.frame, signal)

    def rgb(self) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8 of the shown picture, upright."""
        coded = cast(npt.NDArray[np.uint8], on_cpu(self.frame).to_ndarray(format="rgb24"))
        return np.ascontiguousarray(upright(coded, self.orientation))


class Decoder:
    """Decodes the coded pictures of one stream's epoch, given in decode order from a keyframe on.

    Never fails because of a picture's content: `lost` counts unusable pictures, as PictureDecoder's. Each epoch needs its
    own Decoder. `nvdec`: on the GPU, as PictureDecoder's.
    """

    def __init__(self, *, nvdec: bool = False) -> None:
        self._pictures = PictureDecoder(nvdec=nvdec)

    @property
    def lost(self) -> int:
        """Pictures before the first keyframe, and corrupt ones with those after them up to the next keyframe."""
        return self._pictures.lost

    def push(self, picture: CodedPicture) -> list[ShownPicture]:
        """Pictures that are now ready to be shown, in presentation order. Raises SourceError for an unknown codec."""
        return self._shown(self._pictures.push(picture))

    def flush(self) -> list[ShownPicture]:
        """The pictures still held back, at the end of the epoch. Decoding may continue at a keyframe."""
        return self._shown(self._pictures.flush())

    def _shown(self, decoded: list[DecodedPicture]) -> list[ShownPicture]:
        self._pictures.take_lost()
        return [ShownPicture(d.picture.seq, d.picture.pts, d.picture, d.frame) for d in decoded if d.shown]
