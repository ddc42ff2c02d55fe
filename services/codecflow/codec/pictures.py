"""Coded pictures to frames, the same on both sides of Kafka: producer and worker see the same samples of the same pictures.

Software, one thread, so that a frame comes out as early as the codec allows and the result never depends on timing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags2
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from codecflow.errors import SourceError
from codecflow.messages import CodedPicture

from .annexb import has_idr

_DECODERS = {"av1": "libdav1d"}
"""Software decoders of codecs whose own name in FFmpeg is a decoder that needs hardware."""

_LUMA_FIRST = ("yuv4", "yuvj4", "gray", "nv12", "nv16", "nv21", "nv24")
"""Pixel formats, by their beginning, whose first plane is luma; of those only the 8-bit ones are used as they are."""


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """A coded picture and its frame. `shown`: False for pictures that are decoded only since others refer to them."""

    picture: CodedPicture
    frame: VideoFrame
    shown: bool


class PictureDecoder:
    """Decodes the coded pictures of one epoch, given in decode order, from a keyframe on.

    Frames come out in presentation order. Lost, that is without a frame that may be shown: everything before the first
    keyframe, and a picture that fails to decode, with all that follows it in decode order up to the next keyframe, since
    it may refer to what was lost. After a gap in `seq` decoding starts again at the next keyframe. `lost` counts.
    Not shown either: pictures marked `discard`, and pictures that follow the keyframe of a start or restart but are to be
    shown before it, for they refer to pictures that are not there.

    `vectors`: export motion vectors as side data of frames.
    """

    def __init__(self, *, vectors: bool = False) -> None:
        self.lost = 0
        self._vectors = vectors
        self._context: VideoCodecContext | None = None
        self._setup: tuple[str, bytes | None] = ("", None)
        self._next_seq: int | None = None
        self._waiting = True
        self._start = (0, 0)
        self._open_start = False
        self._keyframes: deque[tuple[int, int]] = deque(maxlen=64)
        self._lost_ranges: deque[range] = deque(maxlen=8)
        self._newly_lost: list[int] = []

    def push(self, picture: CodedPicture) -> list[DecodedPicture]:
        """Frames that became ready, in presentation order."""
        if self._next_seq is not None and picture.seq != self._next_seq:
            self._waiting = True
        self._next_seq = picture.seq + 1
        ready: list[DecodedPicture] = []
        if self._waiting:
            if not picture.keyframe:
                self._report([picture.seq])
                return ready
            ready += self.flush()
            self._waiting = False
            self._start = (picture.seq, picture.pts)
            self._open_start = picture.codec == "h264" and not has_idr(picture.data)
        elif picture.keyframe:
            self._open_start = False
        if picture.keyframe:
            self._keyframes.append((picture.seq, picture.pts))
            ready += self._set_up(picture)
        # Not Packet(data): that lends FFmpeg the bytes without the zeros that its bit readers need behind them.
        packet: Packet[Any] = Packet(len(picture.data))
        packet.update(picture.data)
        packet.pts, packet.dts, packet.time_base = picture.pts, picture.dts, picture.time_base
        packet.is_keyframe = picture.keyframe
        packet.opaque = (picture,)  # a tuple of its own: PyAV finds opaque objects by their address
        return ready + self._decode(packet, picture.seq)

    def flush(self) -> list[DecodedPicture]:
        """Frames still held back. Decoding goes on at the next keyframe."""
        self._waiting = True
        if self._context is None:
            return []
        ready = self._decode(None, -1)
        self._context.flush_buffers()
        return ready

    def take_lost(self) -> list[int]:
        """The seq of every picture found to be lost since the last call."""
        lost, self._newly_lost = self._newly_lost, []
        return lost

    def _decode(self, packet: Packet[Any] | None, seq: int) -> list[DecodedPicture]:
        assert self._context is not None
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            # After a start within an open GOP, sound H.264 pictures unmark references that are not there: an error to
            # FFmpeg, which decodes them all the same. What is broken then still shows in its frame.
            if packet is not None and not self._open_start:
                self._lose(seq)
            return []
        ready = []
        for frame in frames:
            if not isinstance(frame.opaque, tuple):
                continue
            picture: CodedPicture = frame.opaque[0]
            if frame.is_corrupt:
                self._lose(picture.seq)
            elif not any(picture.seq in lost for lost in self._lost_ranges):
                leading = picture.seq > self._start[0] and picture.pts < self._start[1]
                ready.append(DecodedPicture(picture, frame, not (picture.discard or leading)))
        return ready

    def _lose(self, seq: int) -> None:
        """Gives up the picture `seq` and what follows it up to the next keyframe, which may be here already."""
        assert self._next_seq is not None
        if any(seq in lost for lost in self._lost_ranges):
            return
        later = [keyframe for keyframe in self._keyframes if keyframe[0] > seq]
        if later:
            self._start = later[0]
        else:
            self._waiting = True
        lost = range(seq, later[0][0] if later else self._next_seq)
        self._lost_ranges.append(lost)
        self._report(lost)

    def _report(self, seqs: range | list[int]) -> None:
        self.lost += len(seqs)
        self._newly_lost.extend(seqs)

    def _set_up(self, picture: CodedPicture) -> list[DecodedPicture]:
        """Opens a decoder when the codec or its extradata is new; the frames still inside the old one."""
        setup = (picture.codec, picture.extradata)
        if self._context is not None and setup == self._setup:
            return []
        ready = [] if self._context is None else self._decode(None, -1)
        name = _DECODERS.get(picture.codec, picture.codec)
        try:
            context = VideoCodecContext.create(name, "r")
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(f"stream {picture.stream}: no decoder for codec {picture.codec!r}", "codec") from error
        assert isinstance(context, VideoCodecContext)
        context.extradata = picture.extradata
        context.width, context.height = picture.width, picture.height  # some codecs have no size of their own
        context.thread_count = 1
        context.copy_opaque = True
        context.options = {"err_detect": "explode"}
        if self._vectors:
            context.flags2 |= Flags2.export_mvs
        self._context, self._setup = context, setup
        return ready


def luma(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """(height, width) uint8 luma samples, read-only. A view of the frame where its first plane is 8-bit luma."""
    description = frame.format
    if not (description.name.startswith(_LUMA_FIRST) and description.components[0].bits == 8):
        frame = frame.reformat(format="yuv420p")
    plane = frame.planes[0]
    samples: npt.NDArray[np.uint8] = np.frombuffer(cast(Any, plane), np.uint8)
    view = samples.reshape(plane.height, plane.line_size)[:, : frame.width]
    view.flags.writeable = False
    return view
