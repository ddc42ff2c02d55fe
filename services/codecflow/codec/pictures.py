"""Decodes coded pictures to frames identically on both sides of Kafka: producer and worker see the same samples.

In software with one thread, so that a frame comes out as early as the codec allows and the result never depends on timing,
or on a GPU's video decoder for codecs where that gives the same samples (nvdec.py).

A picture counts as damaged when FFmpeg finds an error in it or conceals one, or when H.264's frame numbers show that
pictures it may refer to are missing. FFmpeg is set to stop at errors (`explode`) instead of guessing, and receives only the
data that determines samples, so faults in other data do not count (access_units.py).
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags2
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from codecflow.errors import SourceError
from codecflow.messages import MAX_SIDE, CodedPicture, Signal

from . import nvdec
from .access_units import AccessUnit, AccessUnits, access_units

CORRUPT, AFTER_CORRUPT = "corrupt", "after a corrupt one"
"""Why a picture is lost: it is damaged, or it may refer to a damaged or missing one."""

MAX_PIXELS = MAX_SIDE * MAX_SIDE
"""Default limit on a picture's samples. FFmpeg refuses pictures that are larger than the container says, from twice the size
on, before it allocates memory for them."""

_DECODERS = {"av1": "libdav1d"}
"""Software decoders of codecs for which FFmpeg's decoder of the codec's own name needs hardware."""

_FAILURES = (av.error.FFmpegError, OverflowError, ValueError, MemoryError)
"""What a decoder, or PyAV on its behalf, raises because of a picture's content."""


def _unknown(cls: type[Type], value: object) -> Type:
    return cls.VIDEO_HINT


# PyAV knows the types of an older FFmpeg. An unknown type (EXIF, LCEVC, a view of MV-HEVC) makes all side data of a frame
# unreadable, motion vectors included, so unknown types are replaced by one that is not read here.
Type._missing_ = classmethod(_unknown)  # type: ignore[method-assign, assignment]

_MAX_REORDER = 16  # frames (H.264 A.3.1)
_FIRST_PLANE_IS_LUMA = ("yuv4", "yuvj4", "yuva4", "gray", "nv1", "nv2")


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """A coded picture and its frame. `shown`: False for pictures that are decoded only because others refer to them."""

    picture: CodedPicture
    frame: VideoFrame
    shown: bool


class PictureDecoder:
    """Decodes the coded pictures of one epoch, given in decode order, from a keyframe on.

    Frames come out in presentation order. Lost, that is without a frame that may be shown: everything before the first
    keyframe, and a damaged picture with all that follows it in decode order up to the next keyframe, since it may refer to
    what was lost. After a gap in `seq` decoding restarts at the next keyframe. `lost` counts them. Also not shown: pictures
    marked `discard`; pictures that follow the keyframe of a start or restart but are to be shown before it, because they
    refer to missing pictures; after a start at a recovery point (intra refresh) those before the samples have recovered.

    `vectors`: export motion vectors as side data of frames. `nvdec`: decode on the GPU where its samples are identical;
    frames then stay in its memory until their samples are requested (nvdec.on_cpu). `max_pixels`: limit on a decoded
    picture.
    """

    def __init__(self, *, vectors: bool = False, nvdec: bool = False, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self.lost = 0
        self._vectors, self._nvdec = vectors, nvdec
        self._context: VideoCodecContext | None = None
        self._setup: tuple[str, bytes | None, bool] = ("", None, True)
        self._units: AccessUnits = access_units("")
        self._next_seq: int | None = None
        self._newest_seq = -1  # of the newest frame
        self._waiting = True
        self._holding = False  # the decoder has received pictures since it was emptied
        self._start = (0, 0)
        self._keyframes: deque[tuple[int, int]] = deque(maxlen=64)
        self._lost_ranges: deque[range] = deque(maxlen=8)
        self._newly_lost: list[tuple[int, str]] = []

    def push(self, picture: CodedPicture) -> list[DecodedPicture]:
        """Frames that became ready, in presentation order. Raises SourceError if the picture cannot be decoded here: its
        codec is unknown, or it is too large."""
        if self._next_seq is not None and picture.seq != self._next_seq:
            self._waiting = True
        self._next_seq = picture.seq + 1
        ready = self.flush() if self._waiting else []
        if self._waiting and not picture.keyframe:
            self._report([picture.seq], AFTER_CORRUPT)
            return ready
        if picture.codec != self._setup[0]:
            self._units = access_units(picture.codec)
        if self._waiting:
            self._units.restart()
        unit = self._units.read(picture.data)
        if picture.keyframe:
            if unit.gap:
                ready += self.flush()  # earlier pictures do not matter
            ready += self._set_up(picture, unit)
            self._keyframes.append((picture.seq, picture.pts))
        if not unit.data or (unit.gap and not picture.keyframe):
            self._lose(picture.seq)
            return ready
        return ready + self._decode_unit(picture, unit.data)

    def skip(self, picture: CodedPicture) -> None:
        """Skip the next picture, to which none of those that will be pushed refers."""
        if picture.seq == self._next_seq:
            self._next_seq += 1

    def flush(self) -> list[DecodedPicture]:
        """Frames still held back. Decoding continues at the next keyframe."""
        self._waiting = True
        if self._context is None or not self._holding:
            return []
        ready = self._decode(self._context, None, -1)
        self._context.flush_buffers()
        self._holding = False
        return ready

    def take_lost(self) -> list[tuple[int, str]]:
        """(seq, reason) of every picture found to be lost since the last call."""
        lost, self._newly_lost = self._newly_lost, []
        return lost

    def _decode_unit(self, picture: CodedPicture, data: bytes) -> list[DecodedPicture]:
        assert self._context is not None
        # Not Packet(data): that lends FFmpeg the bytes without the zero padding that its bit readers need.
        packet: Packet[Any] = Packet(len(data))
        packet.update(data)
        try:
            packet.pts, packet.dts, packet.time_base = picture.pts, picture.dts, picture.time_base
        except OverflowError:
            self._lose(picture.seq)
            return []
        packet.is_keyframe = picture.keyframe
        packet.opaque = (picture,)  # a unique tuple: PyAV finds opaque objects by their address
        self._holding = True
        return self._decode(self._context, packet, picture.seq)

    def _decode(self, context: VideoCodecContext, packet: Packet[Any] | None, seq: int) -> list[DecodedPicture]:
        try:
            frames = context.decode(packet)
        except _FAILURES:
            if packet is not None:
                self._lose(seq)
            return []
        ready = []
        for frame in frames:
            if not isinstance(frame.opaque, tuple):
                continue
            picture: CodedPicture = frame.opaque[0]
            if frame.is_corrupt:
                self._lose(picture.seq)
            elif picture.seq == self._newest_seq:
                continue  # two pictures in one, such as AV1 without the delimiter between them: only one has a time
            elif not any(picture.seq in lost for lost in self._lost_ranges):
                self._newest_seq = picture.seq
                leading = picture.seq > self._start[0] and picture.pts < self._start[1]
                ready.append(DecodedPicture(picture, frame, not (picture.discard or leading)))
        return ready

    def _lose(self, seq: int) -> None:
        """Gives up the picture `seq` and those after it up to the next keyframe, which may have arrived already."""
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
        self._report([seq], CORRUPT)
        self._report(lost[1:], AFTER_CORRUPT)

    def _report(self, seqs: range | list[int], why: str) -> None:
        self.lost += len(seqs)
        self._newly_lost.extend((seq, why) for seq in seqs)

    def _set_up(self, picture: CodedPicture, unit: AccessUnit) -> list[DecodedPicture]:
        """At a keyframe: opens a decoder when the codec or its extradata is new; returns the frames still inside the old
        one."""
        restart = self._waiting
        self._waiting = True  # until there is a decoder
        if picture.width * picture.height > self._max_pixels:
            raise SourceError(
                f"stream {picture.stream}: pictures of {picture.width}x{picture.height} are larger than {self._max_pixels} "
                "samples; lower the camera's resolution, or produce with --transcode",
                "codec",
            )
        strict = unit.clean_start if restart else self._setup[2]
        setup = (picture.codec, picture.extradata, strict)
        ready: list[DecodedPicture] = []
        if self._context is None or setup != self._setup:
            ready = self.flush()
            self._context, self._setup = None, setup
            self._context = self._opened(picture, strict)
        if restart:
            self._start = (picture.seq, picture.pts)
        self._expect_reordering(self._context, picture, unit)
        self._waiting = False
        return ready

    def _opened(self, picture: CodedPicture, strict: bool) -> VideoCodecContext:
        name = _DECODERS.get(picture.codec, picture.codec)
        try:
            context = VideoCodecContext.create(name, "r")
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(f"stream {picture.stream}: no decoder for codec {picture.codec!r}", "codec") from error
        if not isinstance(context, VideoCodecContext):
            raise SourceError(f"stream {picture.stream}: codec {picture.codec!r} is none of video", "codec")
        context.extradata = picture.extradata
        context.width, context.height = picture.width, picture.height  # some codecs do not store their size
        context.thread_count = 1
        context.copy_opaque = True
        context.options = {"max_pixels": str(2 * self._max_pixels)}  # FFmpeg includes the margins of its buffers
        if strict:
            # Not after a start within an open GOP or at a recovery point: there, valid H.264 pictures unmark missing
            # references, which would be an error. FFmpeg then conceals damage, and says so in the frame.
            context.options["err_detect"] = "explode"
        if self._vectors:
            context.flags2 |= Flags2.export_mvs
        return context

    @staticmethod
    def _expect_reordering(context: VideoCodecContext, picture: CodedPicture, unit: AccessUnit) -> None:
        """If an H.264 sequence does not state its reordering, FFmpeg detects it by losing the first B-pictures. Its times
        show it: a picture's presentation time exceeds its decoding time by the pictures that may come between."""
        if unit.reorder_depth is not None or picture.dts is None or not picture.duration:
            return
        depth = min(-(-(picture.pts - picture.dts) // picture.duration), _MAX_REORDER)
        context.reorder_depth = max(context.reorder_depth, depth)


def side_data(frame: VideoFrame, kind: Type) -> Any:
    """A frame's side data, with the buffer interface; None if there is none."""
    return frame.side_data.get(cast(Any, kind))


def luma(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """(height, width) uint8 luma samples, read-only, identical on every machine. A view of the frame if its first plane is
    8-bit luma; deeper samples lose their lowest bits; RGB is converted with the usual integer weights (BT.601)."""
    frame = nvdec.on_cpu(frame)
    description = frame.format
    name = description.name
    depth = description.components[0].bits
    if name.startswith(_FIRST_PLANE_IS_LUMA) and not name.endswith("be") and 8 <= depth <= 16:
        samples = _plane(frame, 0, depth)
    elif name.startswith("gbr") and not name.endswith("be") and 8 <= depth <= 16:
        green, blue, red = (_plane(frame, index, depth).astype(np.uint16) for index in range(3))
        samples = ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)
    else:
        samples = _plane(frame.reformat(format="yuv420p"), 0, 8)
    samples.flags.writeable = False
    return samples


def luma_checksum(samples: npt.NDArray[np.uint8]) -> int:
    """CRC-32 of (height, width) uint8 samples."""
    return zlib.crc32(np.ascontiguousarray(samples).data)


def matches(frame: VideoFrame, signal: Signal) -> bool:
    """Whether the frame's luma samples are those on which `signal`, of this picture, was measured. If not, a decoder here
    produced different samples, and the signal bounds nothing."""
    return signal.luma_crc32 is None or luma_checksum(luma(frame)) == signal.luma_crc32


def _plane(frame: VideoFrame, index: int, depth: int) -> npt.NDArray[np.uint8]:
    """(height, width) uint8 samples of one plane that holds only these samples, of `depth` bits."""
    plane = frame.planes[index]
    if depth == 8:
        samples: npt.NDArray[np.uint8] = np.frombuffer(cast(Any, plane), np.uint8)
        return samples.reshape(plane.height, plane.line_size)[:, : frame.width]
    words: npt.NDArray[np.uint16] = np.frombuffer(cast(Any, plane), "<u2")
    return (words.reshape(plane.height, plane.line_size // 2)[:, : frame.width] >> (depth - 8)).astype(np.uint8)
