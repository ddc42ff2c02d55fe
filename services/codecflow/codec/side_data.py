"""What FFmpeg's decoders say about a frame besides its samples."""

from __future__ import annotations

from typing import Any, cast

from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


def _unknown(cls: type[Type], value: object) -> Type:
    return cls.VIDEO_HINT


# PyAV knows the types of an older FFmpeg. One that it does not know (EXIF, LCEVC, a view of MV-HEVC) makes all side data of
# a frame unreadable, motion vectors included, so unknown types pass for one that nobody here reads.
Type._missing_ = classmethod(_unknown)  # type: ignore[method-assign, assignment]


def side_data(frame: VideoFrame, kind: Type) -> Any:
    """The side data of a type, with the buffer interface; None where there is none."""
    return frame.side_data.get(cast(Any, kind))
