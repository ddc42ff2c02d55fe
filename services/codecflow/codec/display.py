"""The orientation in which a source's pictures are to be shown, according to its container and the pictures themselves.

Sources: ISO/IEC 14496-12, 6.2.2 (the matrix of a track); EXIF 2.32 and TIFF 6.0 (Orientation of a JPEG); ITU-T H.264 D.1.29
and H.265 D.2.22 (SEI display orientation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import av.error
import numpy as np
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from codecflow.orientation import ORIENTATIONS, UPRIGHT, Nearest, nearest

from .annexb import nal_type, split_annex_b
from .headers import sei_payload
from .pictures import side_data

TOLERATED = 1.0
"""Degrees by which a transform may differ from a quarter turn without a notice."""

_EXIF_ORIENTATION = 0x0112
_SEI = {"h264": (6, 1, range(1, 6)), "hevc": (39, 2, range(32))}  # type of a (prefix) SEI, header bytes, coded slices
_DISPLAY_ORIENTATION = 47


class Display:
    """The orientation of each picture of one track, in decode order, as stated by the container or the picture itself.

    `notice`: called once with an angle in degrees when pictures are to be rotated by other than a quarter turn.
    """

    def __init__(self, track: VideoStream, codec: str, notice: Callable[[float], None]) -> None:
        self._track, self._codec, self._notice = track, codec, notice
        self._container = UPRIGHT
        self._started = False
        self._off = False
        self._own = UPRIGHT

    def of(self, packet: Packet[Any], data: bytes) -> int:
        """The orientation (1 to 8) of a picture. `data`: of a H.264 or HEVC picture, in Annex B; else the packet's bytes."""
        if not self._started:
            self._started = True
            self._container = self._of_container(packet, data)
        if self._codec == "mjpeg":  # its EXIF overrides the container, as in FFmpeg
            own = exif_orientation(data)
            return self._container if own == UPRIGHT else own
        if self._codec in _SEI and self._container == UPRIGHT:
            found = sei_orientation(data, self._codec)
            if found is not None or packet.is_keyframe:
                self._own = self._nearest(found) if found else UPRIGHT
            return self._own
        return self._container

    def _of_container(self, packet: Packet[Any], data: bytes) -> int:
        """The container's orientation for all pictures, read with the first one. The picture's own is not included."""
        if self._codec == "mjpeg":
            packet = Packet(without_exif(data))
        matrix = _matrix(self._track, packet)
        own = sei_orientation(data, self._codec) if self._codec in _SEI else None
        return UPRIGHT if matrix is None or matrix == own else self._nearest(matrix)

    def _nearest(self, found: Nearest) -> int:
        if found.off > TOLERATED and not self._off:
            self._off = True
            self._notice(found.off)
        return found.orientation


def frame_matrix(frame: VideoFrame) -> Nearest | None:
    """The display matrix that FFmpeg reports for a frame; None if there is none."""
    matrix = side_data(frame, Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32, 9).tolist()
    return nearest((a, b, c, d))


def _matrix(track: VideoStream, packet: Packet[Any]) -> Nearest | None:
    """The container's display matrix. FFmpeg reports it only with decoded frames, so the first picture is decoded."""
    context = track.codec_context
    try:
        context.thread_count = 1
        frames = [*context.decode(packet), *context.decode(None)]
        context.flush_buffers()
    except (av.error.FFmpegError, ValueError):
        return None
    return frame_matrix(frames[0]) if frames else None


def exif_orientation(jpeg: bytes) -> int:
    """The orientation in a JPEG's EXIF segment; 1 if there is none or it is invalid."""
    begin, end = _exif_segment(jpeg)
    return _tiff_orientation(jpeg[begin + 10 : end])


def without_exif(jpeg: bytes) -> bytes:
    """A JPEG without its EXIF segment."""
    begin, end = _exif_segment(jpeg)
    return jpeg[:begin] + jpeg[end:]


def _exif_segment(jpeg: bytes) -> tuple[int, int]:
    """Start (marker included) and end of a JPEG's EXIF segment; (0, 0) if there is none."""
    position = 2
    while jpeg[position : position + 1] == b"\xff" and position + 4 <= len(jpeg):
        marker = jpeg[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker in (0xDA, 0xD9):  # start of the picture
            break
        length = int.from_bytes(jpeg[position + 2 : position + 4])
        if marker == 0xE1 and jpeg[position + 4 : position + 10] == b"Exif\0\0":
            return position, position + 2 + length
        position += 2 + length
    return 0, 0


def _tiff_orientation(tiff: bytes) -> int:
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return UPRIGHT

    def number(position: int, size: int) -> int:
        return int.from_bytes(tiff[position : position + size], cast(Any, order))

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if entry + 12 > len(tiff):
            break
        if number(entry, 2) == _EXIF_ORIENTATION:
            size = {1: 1, 3: 2, 4: 4}.get(number(entry + 2, 2), 0)
            value = number(entry + 8, size)
            return value if value in ORIENTATIONS else UPRIGHT
    return UPRIGHT


def sei_orientation(data: bytes, codec: str) -> Nearest | None:
    """The orientation in a display orientation message before a picture; None if there is none. `data`: in Annex B."""
    sei, header, slices = _SEI[codec]
    for unit in split_annex_b(data):
        kind = nal_type(unit, codec)
        if kind in slices:
            return None
        if kind != sei:
            continue
        payload = sei_payload(unit[header:].replace(b"\0\0\3", b"\0\0"), _DISPLAY_ORIENTATION)
        if payload and payload[0] & 0x80:  # cancelled
            return Nearest(UPRIGHT, 0.0)
        if payload is not None and len(payload) >= 3:
            bits = int.from_bytes(payload[:3])
            across, down = (-1 if bits >> shift & 1 else 1 for shift in (22, 21))
            turn = math.tau * (bits >> 5 & 0xFFFF) / 65536  # counter-clockwise, after mirroring
            sine, cosine = math.sin(turn), math.cos(turn)
            return nearest((across * cosine, -across * sine, down * sine, down * cosine))
    return None
