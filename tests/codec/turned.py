"""Clips whose pictures are coded rotated or mirrored, with the orientation stated by container or picture."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image

from codecflow.codec.annexb import START_CODE, nal_type, split_annex_b
from codecflow.codec.source import Source
from codecflow.grid import TokenGrid
from codecflow.orientation import inverse, upright

from .clips import CODECS, Luma, scene

# (a, b, c, d) of ISO/IEC 14496-12, 6.2.2 for each orientation.
MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}

# (hor_flip, ver_flip, anticlockwise_rotation in quarter turns) of H.264 D.1.29: mirroring first, then rotation.
_FLIPS = {
    1: (0, 0, 0),
    2: (1, 0, 0),
    3: (0, 0, 2),
    4: (0, 1, 0),
    5: (1, 0, 1),
    6: (0, 0, 3),
    7: (0, 1, 1),
    8: (0, 0, 1),
}


ROWS, COLUMNS = 8, 12
"""Size of a token grid over the shown scene: 8x8 pixels each."""


def changed(index: int) -> list[int]:
    """The tokens of the shown scene, 96x64, that clearly differ between its pictures `index` - 5 and `index`."""
    weights = np.array([0.299, 0.587, 0.114])
    difference = np.abs((scene(index, 96, 64).astype(float) - scene(index - 5, 96, 64)) @ weights)
    boxes = TokenGrid.regular(ROWS, COLUMNS, 96, 64).boxes.tolist()
    return [token for token, (x0, y0, x1, y1) in enumerate(boxes) if difference[y0:y1, x0:x1].mean() > 20]


def lying(index: int, orientation: int, size: tuple[int, int] = (96, 64)) -> Luma:
    """Picture `index` of a scene of `size`, as coded by a camera with that orientation: (height, width, 3) uint8."""
    return np.ascontiguousarray(upright(scene(index, *size), inverse(orientation)))


def matrix_clip(
    path: Path, matrix: tuple[float, ...], orientation: int, pictures: int = 12, codec: str = "h264"
) -> Path:
    """Pictures coded for `orientation`, in a container whose matrix is `matrix`."""
    encoder, ending, pixels, options = CODECS[codec]
    path = path.with_suffix(f".{ending}")
    with av.open(str(path), "w") as container:
        track = container.add_stream(encoder, rate=10, options=options)
        height, width = lying(0, orientation).shape[:2]
        track.width, track.height, track.pix_fmt = width, height, pixels
        track.codec_context.gop_size, track.codec_context.thread_count = 10, 1
        a, b, c, d = (round(65536 * value) for value in matrix)
        track.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for index in range(pictures):
            frame = av.VideoFrame.from_ndarray(lying(index, orientation), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def exif(orientation: int, order: str = ">") -> bytes:
    """An APP1 segment with an EXIF orientation."""
    mark = {">": b"MM", "<": b"II"}[order]
    entries = struct.pack(f"{order}HHHIHH", 2, 0x0100, 3, 1, 96, 0) + struct.pack(
        f"{order}HHIHH", 0x0112, 3, 1, orientation, 0
    )
    tiff = mark + struct.pack(f"{order}HI", 42, 8) + entries + bytes(4)
    body = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def jpeg(picture: Luma, orientation: int | None, order: str = ">") -> bytes:
    """A JPEG; its EXIF segment comes after JFIF's."""
    out = BytesIO()
    Image.fromarray(picture).save(out, "jpeg", quality=95, subsampling=0)
    data = out.getvalue()
    assert data[2:4] == b"\xff\xe0"
    at = 4 + int.from_bytes(data[4:6])
    return data if orientation is None else data[:at] + exif(orientation, order) + data[at:]


def exif_clip(path: Path, orientations: list[int | None]) -> Path:
    """An MJPEG recording whose picture i is coded for orientations[i], and states it unless that is None."""
    path = path.with_suffix(".mkv")
    with av.open(str(path), "w") as container:
        track = container.add_stream("mjpeg", rate=10)
        height, width = lying(0, orientations[0] or 1).shape[:2]
        track.width, track.height, track.pix_fmt = width, height, "yuvj444p"
        for index, orientation in enumerate(orientations):
            packet = av.Packet(jpeg(lying(index, orientation or 1), orientation, "<" if index % 2 else ">"))
            packet.stream, packet.time_base = track, Fraction(1, 10)
            packet.pts = packet.dts = index
            packet.is_keyframe = True
            container.mux(packet)
    return path


def sei(orientation: int, codec: str, *, cancel: bool = False) -> bytes:
    """A NAL unit with a display orientation message."""
    across, down, quarters = _FLIPS[orientation]
    bits = f"{int(cancel):01b}" + (
        "" if cancel else f"{across}{down}{quarters * 16384:016b}" + ("010" if codec == "h264" else "1")
    )
    bits += "0" if codec == "h264" and not cancel else ""  # display_orientation_extension_flag
    bits += "1" if len(bits) % 8 else ""
    bits += "0" * (-len(bits) % 8)
    payload = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    unit = bytes([47, len(payload)]) + payload + b"\x80"
    escaped = bytearray()
    for byte in unit:  # H.264 7.4.1.1
        if byte <= 3 and escaped[-2:] == b"\0\0":
            escaped.append(3)
        escaped.append(byte)
    return START_CODE + (b"\x06" if codec == "h264" else bytes([39 << 1, 1])) + bytes(escaped)


def sei_clip(path: Path, codec: str, orientations: list[int | None]) -> Path:
    """A raw H.264 or HEVC recording with a keyframe every ten pictures; the i-th is preceded by a message with
    orientations[i], unless that is None. All pictures are coded for the first one."""
    assert orientations[0] is not None
    plain = path.with_suffix(".mp4")
    clip = matrix_clip(plain, MATRICES[1], orientations[0], pictures=10 * len(orientations), codec=codec)
    out, keyframes = b"", 0
    for unit, start in _units(clip, codec):
        if start:
            message = orientations[keyframes]
            out += sei(message, codec) if message is not None else b""
            keyframes += 1
        out += START_CODE + unit
    path = path.with_suffix(".h264" if codec.startswith("h264") else ".hevc")
    path.write_bytes(out)
    return path


def _units(clip: Path, codec: str) -> Iterator[tuple[bytes, bool]]:
    """NAL units of a clip, and whether each is the first slice of a keyframe."""
    with Source(str(clip)) as source:
        for picture in source.pictures("clip", 0):
            first = True
            for unit in split_annex_b(picture.data):
                coded = nal_type(unit, source.codec) in (range(1, 6) if source.codec == "h264" else range(32))
                yield unit, picture.keyframe and coded and first
                first = first and not coded
